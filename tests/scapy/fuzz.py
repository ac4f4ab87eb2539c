"""Packets with fuzzed layers: `fuzz.py SEED COUNT` prints so many, one a line: the family, 4 or 6, and the bytes in hexadecimal.

Most have addresses that the twin networks of the labs route; the rest of each layer is what scapy's fuzz() puts there.
"""

import random
import sys

from scapy.all import GRE, ICMP, IP, SCTP, TCP, UDP, ICMPv6EchoRequest, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment
from scapy.all import IPv6ExtHdrHopByHop, IPv6ExtHdrRouting, Raw, fuzz, raw


def addressed4():
    """An IPv4 header of which only some fields are fuzzed, so that most packets come further than its check."""
    destination = random.choice(["198.51.100.7", "10.40.1.2", "10.20.3.4", "10.21.5.6", "203.0.113.9", "10.30.1.1"])
    source = "10.10.%d.%d" % (random.randrange(250), random.randrange(1, 250))
    header = IP(src=source, dst=destination)
    for field, top in ("ttl", 256), ("tos", 256), ("id", 65536), ("flags", 8), ("proto", 256):
        if random.random() < 0.4:
            setattr(header, field, random.randrange(top))
    if random.random() < 0.1:
        header = fuzz(IP(src=source, dst=destination))
    return header


def addressed6():
    """The same for IPv6."""
    destination = random.choice(["2001:db8::7", "fd20::3", "fd21::5", "fd99::1", "fd30::1"])
    header = IPv6(src="fd10::%x" % random.randrange(1, 60000), dst=destination)
    for field, top in ("hlim", 256), ("tc", 256), ("fl", 1 << 20):
        if random.random() < 0.4:
            setattr(header, field, random.randrange(top))
    if random.random() < 0.1:
        header = fuzz(IPv6(src=header.src, dst=destination))
    return header


def packet():
    """One packet of either family."""
    data = Raw(random.randbytes(random.choice([0, 3, 40, 700, 1380])))
    if random.random() < 0.5:
        above = random.choice([TCP, UDP, ICMP, GRE, SCTP])
        return 4, addressed4() / fuzz(above()) / data
    layers = addressed6()
    for extension in random.choices([IPv6ExtHdrHopByHop, IPv6ExtHdrDestOpt, IPv6ExtHdrRouting, IPv6ExtHdrFragment], k=random.randrange(3)):
        layers = layers / fuzz(extension())
    return 6, layers / fuzz(random.choice([TCP, UDP, ICMPv6EchoRequest])()) / data


random.seed(int(sys.argv[1]))
made = 0
while made < int(sys.argv[2]):
    family, layers = packet()
    try:
        data = raw(layers)
    except Exception:  # noqa: BLE001 - some fuzzed values do not fit their fields
        continue
    # Packets for DHCP clients stay with the kernel, which the labs show elsewhere.
    if len(data) <= 1500:
        print(family, data.hex())
        made += 1
