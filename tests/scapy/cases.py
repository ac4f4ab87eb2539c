"""Malformed, optioned and fragmented packets, each with what a router has to make of it by the RFCs, as scapy builds it.

Prints a JSON object a line: `name`; `packet`, its family and bytes; `outs`, what comes out: the host (S, D or E of the twin networks) and the IP
packet; `reason`, why it is dropped when nothing does; and whether the kernel does `same`.
"""

import json

from scapy.all import ICMP, IP, TCP, UDP, ICMPv6DestUnreach, ICMPv6EchoRequest, ICMPv6PacketTooBig, ICMPv6TimeExceeded, IPv6
from scapy.all import IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop, IPv6ExtHdrRouting, IPOption, Raw, RouterAlert, fragment, raw

SOURCE = "10.10.1."
SOURCE6 = "fd10::1:"
number = 0


def emit(name, packet, outs=(), reason=None, same=True):
    """Prints one case; packets may be bytes already."""
    data = raw(packet)
    print(json.dumps({
        "name": name,
        "packet": ("4 " if isinstance(packet, IP) or (isinstance(packet, bytes) and data[0] >> 4 != 6) else "6 ") + data.hex(),
        "outs": [[at, raw(out).hex()] for at, out in outs],
        "reason": reason,
        "same": same,
    }))


def ip(destination, **fields):
    """An IPv4 header from a sender of its own: the kernel limits what it tells each."""
    global number
    number += 1
    return IP(**{"src": SOURCE + str(number), "dst": destination, "ttl": 64, "id": 4711, **fields})


def ip6(destination, **fields):
    """The same for IPv6."""
    global number
    number += 1
    return IPv6(**{"src": SOURCE6 + "%x" % number, "dst": destination, "hlim": 64, **fields})


def udp(size):
    """A datagram of so many bytes in all."""
    return UDP(sport=4242, dport=4243) / Raw(bytes(n & 255 for n in range(size - 8)))


def sent(packet):
    """What a router sends on: one hop less, and the checksum over it."""
    data = bytearray(raw(packet))
    if data[0] >> 4 == 6:
        data[7] -= 1
        return bytes(data)
    data[8] -= 1
    return checked(data)


def checked(data):
    """An IPv4 packet with its header checksum calculated anew (RFC 791 3.1)."""
    data = bytearray(data)
    data[10:12] = bytes(2)
    header = data[: (data[0] & 15) * 4]
    total = sum(int.from_bytes(header[at : at + 2], "big") for at in range(0, len(header), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    data[10:12] = (~total & 0xFFFF).to_bytes(2, "big")
    return bytes(data)


def error(about, kind, code, **fields):
    """An ICMP error from the router's port to the sender (RFC 792, RFC 1812 4.3.2)."""
    data = raw(about)
    tos = 0xC0 | data[1] & 0x1C
    header = IP(src="10.0.0.1", dst=".".join(map(str, data[12:16])), ttl=64, tos=tos, id=0)
    return [("S", header / ICMP(type=kind, code=code, **fields) / Raw(data[: 576 - 28]))]


def error6(about, message):
    """An ICMPv6 error (RFC 4443 2.4 (c))."""
    return [("S", IPv6(src="fd00::1", dst=about.src, hlim=64) / message / Raw(raw(about)[: 1280 - 48]))]


def with_options(packet, options):
    """An IPv4 packet with options as bytes, a multiple of 4."""
    data = raw(packet)
    data = bytearray(data[:20] + options + data[20:])
    data[0] += len(options) // 4
    data[2:4] = len(data).to_bytes(2, "big")
    return checked(data)


def changed(packet, changes, right=True):
    """A packet with bytes changed; its header checksum is right if asked."""
    data = bytearray(raw(packet))
    for at, byte in changes.items():
        data[at] = byte
    return checked(data) if right else bytes(data)


def pieces(data, room):
    """The fragments of an IPv4 packet, so many bytes of data in each (RFC 791 3.2): options are copied as flagged."""
    header = (data[0] & 15) * 4
    place = int.from_bytes(data[6:8], "big")
    later = bytearray(data[:header])
    at = 20
    while at < header and later[at] != 0:
        length = 1 if later[at] == 1 else later[at + 1]
        if not later[at] & 0x80:
            later[at : at + length] = b"\x01" * length
        at += length
    found, begin = [], header
    while begin < len(data):
        rest = len(data) - begin
        size = rest if rest <= room else room // 8 * 8
        piece = bytearray((data[:header] if begin == header else later) + data[begin : begin + size])
        more = 0x2000 if begin + size < len(data) else place & 0x2000
        piece[2:4] = len(piece).to_bytes(2, "big")
        piece[6:8] = (more | (place & 0x1FFF) + (begin - header) // 8).to_bytes(2, "big")
        found.append(checked(piece))
        begin += size
    return found


D, E, SMALL, TINY = "10.40.0.9", "10.20.0.9", "10.21.0.9", "10.22.0.9"

# RFC 1812 5.2.2: silently discarded.
emit("version 5", changed(ip(D) / udp(40), {0: 0x55}), reason="bad_version")
emit("header of 16 bytes", changed(ip(D) / udp(40), {0: 0x44}, False), reason="bad_header_length")
emit("header longer than the packet", changed(raw(ip(D) / udp(8)), {0: 0x4F}, False), reason="truncated")
emit("wrong checksum", changed(ip(D) / udp(40), {10: 1, 11: 2}, False), reason="bad_checksum")
emit("length below the header's", changed(ip(D) / udp(40), {2: 0, 3: 19}), reason="bad_total_length")
emit("length beyond the frame", changed(ip(D) / udp(40), {2: 0, 3: 200}), reason="truncated")
emit("IPv6 version 7", changed(ip6("2001:db8::9") / udp(40), {0: 0x70}, False), reason="bad_version")
emit("IPv6 length beyond the frame", changed(ip6("2001:db8::9") / udp(40), {5: 200}, False), reason="truncated")

# RFC 1812 4.3.3.5: parameter problem, and the place of the option.
for options, place in (b"\x07\0\0\0", 20), (b"\x01\x07\x01\0", 21), (b"\x94\x04\0\0\x44\x09\x05\0", 24), (b"\x01\x01\x01\x07", 23):
    packet = with_options(ip(D) / udp(40), options)
    emit("option that does not fit at %d" % place, packet, error(packet, 12, 0, ptr=place))

# Options that fit. RFC 7126 4.3, 4.4; RFC 1812 5.3.13.5; RFC 2113; RFC 1812 4.2.2.6.
emit("loose source route", with_options(ip(D) / udp(40), b"\x83\x07\x04\x0a\x01\0\x02\0"), reason="source_route")
emit("strict source route", with_options(ip(D) / udp(40), b"\x89\x07\x04\x0a\x01\0\x02\0"), reason="source_route")
for name, options, same in (
    ("router alert", raw(IP(options=[IPOption(b"\x94\x04\0\0")]))[20:], True),
    ("record route", b"\x07\x07\x04\0\0\0\0\0", False),
    ("timestamp", b"\x44\x08\x05\0\0\0\0\0", False),
    ("unknown option", b"\x9f\x04\x01\x02\x1f\x04\x03\x04", True),
):
    packet = with_options(ip(D) / udp(40), options)
    emit(name, packet, [("D", sent(packet))], same=same)

# RFC 791 3.2, RFC 1191 4: around the MTU.
for flags in "", "DF":
    packet = ip(E, flags=flags) / udp(1380)
    emit("as large as the MTU " + flags, packet, [("E", sent(packet))])
packet = ip(E, flags="DF") / udp(1381)
emit("larger than the MTU with DF", packet, error(packet, 3, 4, nexthopmtu=1400))
packet = ip(SMALL, flags="DF") / udp(1000)
emit("larger than the route's MTU with DF", packet, error(packet, 3, 4, nexthopmtu=600))
packet = ip(E) / udp(1480)
emit("in two, as scapy does it", packet, [("E", piece) for piece in fragment(IP(sent(packet)), fragsize=1376)])
for name, at, destination, room in ("1400", "E", E, 1380), ("600", "D", SMALL, 580), ("68", "D", TINY, 48):
    packet = raw(ip(destination) / udp(1480))
    emit("in fragments over " + name, packet, [(at, piece) for piece in pieces(sent(packet), room)])
packet = with_options(ip(SMALL) / udp(1000), b"\x94\x04\0\0\x1f\x04\x01\x02\x9f\x04\x03\x04")
emit("options copied as flagged", packet, [("D", piece) for piece in pieces(sent(packet), 568)])
for name, flags, frag in ("first", "MF", 0), ("middle", "MF", 100), ("last", "", 100):
    packet = raw(ip(SMALL, flags=flags, frag=frag, proto=17) / Raw(bytes(800)))
    emit("fragments of a %s fragment" % name, packet, [("D", piece) for piece in pieces(sent(packet), 580)])

# RFC 792, RFC 1812 5.2.7: what cannot be sent on.
for ttl in 0, 1:
    packet = ip(D, ttl=ttl, tos=0x54) / udp(40)
    emit("TTL %d" % ttl, packet, error(packet, 11, 0))
packet = ip(D, ttl=2) / udp(40)
emit("TTL 2", packet, [("D", sent(packet))])
packet = ip(D, ttl=1) / udp(1400)
emit("quoted up to 576 bytes", packet, error(packet, 11, 0))
for name, destination, kind, code in ("no route", "203.0.113.9", 3, 0), ("unreachable", "10.30.0.9", 3, 1), ("prohibit", "10.31.0.9", 3, 13):
    packet = ip(destination) / TCP(sport=1, dport=2)
    emit(name, packet, error(packet, kind, code))
emit("blackhole", ip("10.32.0.9") / udp(40), reason="blackhole")
packet = ip(D, ttl=1, flags="MF", proto=17) / Raw(bytes(64))
emit("TTL 1, first fragment", packet, error(packet, 11, 0))
# RFC 1812 4.3.2.7: never about these.
emit("TTL 1, later fragment", ip(D, ttl=1, frag=9, proto=17) / Raw(bytes(64)), reason="ttl_exceeded")
emit("TTL 1, an error", ip(D, ttl=1) / ICMP(type=3, code=1) / Raw(bytes(28)), reason="ttl_exceeded")
packet = ip(D, ttl=1) / ICMP(type=8) / Raw(bytes(28))
emit("TTL 1, a query", packet, error(packet, 11, 0))
# RFC 1812 5.3.7, RFC 3927 7.
for source, same in ("127.0.0.1", True), ("0.0.0.0", True), ("240.0.0.9", False), ("255.255.255.255", True):
    emit("from " + source, ip(D, src=source) / udp(40), reason="martian_source", same=same)
emit("from 169.254.1.1", ip(D, src="169.254.1.1") / udp(40), reason="link_local", same=False)
emit("to 240.0.0.9", ip("240.0.0.9") / udp(40), reason="martian_destination", same=False)

# IPv6: RFC 8200, RFC 4443.
D6, E6, SMALL6 = "2001:db8::9", "fd20::9", "fd21::9"
for hops in 0, 1:
    packet = ip6(D6, hlim=hops, tc=0x54, fl=0x12345) / udp(40)
    emit("hop limit %d" % hops, packet, error6(packet, ICMPv6TimeExceeded()))
packet = ip6(D6, hlim=1) / udp(1400)
emit("quoted up to 1280 bytes", packet, error6(packet, ICMPv6TimeExceeded()))
packet = ip6(E6) / udp(1360)
emit("as large as the MTU of IPv6", packet, [("E", sent(packet))])
packet = ip6(E6) / udp(1361)
emit("larger than the MTU of IPv6", packet, error6(packet, ICMPv6PacketTooBig(mtu=1400)))
packet = ip6(SMALL6) / udp(1361)
emit("larger than the route's MTU of IPv6", packet, error6(packet, ICMPv6PacketTooBig(mtu=1300)), same=False)
for name, destination, code in ("no route", "fd99::9", 0), ("unreachable", "fd30::9", 0), ("prohibit", "fd31::9", 1):
    packet = ip6(destination) / udp(40)
    emit("IPv6 " + name, packet, error6(packet, ICMPv6DestUnreach(code=code)))
emit("IPv6 blackhole", ip6("fd32::9") / udp(40), reason="blackhole")
emit("hop limit 1, an error", ip6(D6, hlim=1) / ICMPv6DestUnreach() / Raw(bytes(48)), reason="ttl_exceeded")
emit("hop limit 1, later fragment", ip6(D6, hlim=1) / IPv6ExtHdrFragment(offset=9, nh=17) / Raw(bytes(64)), reason="ttl_exceeded", same=False)
packet = ip6(D6, hlim=1) / ICMPv6EchoRequest(data=bytes(20))
emit("hop limit 1, a query", packet, error6(packet, ICMPv6TimeExceeded()))
unknown = b"\x9e\x04\x01\x02\x03\x04"
for name, extensions, same in (
    ("router alert", IPv6ExtHdrHopByHop(options=[RouterAlert()]), True),
    ("an unknown hop-by-hop option", Raw(b"\x11\0" + unknown), False),
    ("destination options", IPv6ExtHdrDestOpt(), True),
    ("a routing header with segments left", IPv6ExtHdrRouting(type=4, segleft=1, addresses=["fd20::1"]), True),
    ("a first fragment", IPv6ExtHdrFragment(m=1, id=7), True),
    ("a later fragment", IPv6ExtHdrFragment(offset=9, id=7, nh=17), True),
):
    header = ip6(D6, nh=0) if isinstance(extensions, Raw) else ip6(D6)
    packet = header / extensions / udp(64)
    emit(name, packet, [("D", sent(packet))], same=same)
packet = ip6(D6)
for _ in range(9):
    packet = packet / IPv6ExtHdrDestOpt()
packet = packet / udp(40)
emit("nine extension headers, and no list", packet, [("D", sent(packet))])
packet = raw(ip(D, proto=6) / Raw(bytes(12)))
emit("a TCP header of 12 bytes, and no list", packet, [("D", sent(packet))])
packet = raw(ip(D, proto=6, frag=1) / Raw(bytes(24)))
emit("a fragment within the TCP header, and no list", packet, [("D", sent(packet))])
for source in "::1", "ff02::1":
    emit("from " + source, ip6(D6, src=source) / udp(40), reason="martian_source")
