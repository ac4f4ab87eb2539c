// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// The steering program. It alone decides, at the device, which frames are the kernel's and which go to a worker:
//
//   other MAC, not IP (ARP, VLAN tagged, ...), multicast, broadcast, link-local,
//   UDP to port 68, a prefix that is the node's own in the VRF    -> XDP_PASS, counted as punted
//   router advertisement or redirect from a workload to the node  -> XDP_DROP, counted as protected
//   all else                                                      -> the socket of its queue, counted as redirected
//
// A worker cannot give a frame back, so whatever the kernel might want has to be recognised here. One program serves
// all ports: what differs between them is in the map `ports`, by the index of the device.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

// As settings::MAX_PORTS and settings::MAX_QUEUES; a test compares them.
#define MAX_PORTS 1024
#define MAX_QUEUES 64
#define MAX_WORKERS 256
// No memory is taken for entries that are not there.
#define MAX_LOCAL 262144

#define PORT_CLOSED 1  // a frame without a socket is dropped rather than left to the kernel
#define PORT_GUARDED 2 // host protection: the other end is not to be trusted

struct port {
	__u16 slot;
	__u8 mac[6];
	__u32 flags;
	__u32 queues;
	__be32 vrf;
};

struct tally {
	__u64 packets;
	__u64 bytes;
};

// How often a worker went through its rounds; the worker writes it through its own mapping of the map. The program
// writes there in which round it has found the worker stalled.
struct beat {
	__u64 rounds;
	__u64 stalled;
	__u64 unused[6];
};

// What is known of the worker of a queue: its rounds when a frame last came, and since when frames come without any.
struct watch {
	__u64 rounds;
	__u64 since;
	__u32 worker;
	__u32 limit_ms; // 0: not watched
};

enum outcome { PUNTED, REDIRECTED, PROTECTED, CLOSED, OUTCOMES };

struct tallies {
	struct tally of[OUTCOMES];
};

// The VRF's number goes first, all its bits always part of the prefix: what is own in one VRF is not in another.
#define VRF_BITS 32

struct local4_key {
	__u32 prefix_len;
	__be32 vrf;
	__be32 address;
};

struct local6_key {
	__u32 prefix_len;
	__be32 vrf;
	struct in6_addr address;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_PORTS);
	__type(key, __u32);
	__type(value, struct port);
} ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, MAX_PORTS *MAX_QUEUES);
	__type(key, __u32);
	__type(value, __u32);
} xsks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, MAX_WORKERS);
	__type(key, __u32);
	__type(value, struct beat);
} beats SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_PORTS *MAX_QUEUES);
	__type(key, __u32);
	__type(value, struct watch);
} watches SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MAX_PORTS);
	__type(key, __u32);
	__type(value, struct tallies);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_LOCAL);
	__type(key, struct local4_key);
	__type(value, __u8);
} local4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_LOCAL);
	__type(key, struct local6_key);
	__type(value, __u8);
} local6 SEC(".maps");

// Whose a frame is.
enum owner { KERNEL, WORKER, NOBODY };

static __always_inline int count(struct xdp_md *ctx, const struct port *port, enum outcome what, int action)
{
	__u32 slot = port->slot;
	struct tallies *t = bpf_map_lookup_elem(&counters, &slot);

	if (t) {
		t->of[what].packets++;
		t->of[what].bytes += bpf_xdp_get_buff_len(ctx);
	}
	return action;
}

static __always_inline int same_mac(const __u8 *a, const __u8 *b)
{
	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3] && a[4] == b[4] && a[5] == b[5];
}

// Whether an IPv4 packet is an ICMP redirect (RFC 792). A later fragment has no type to show; the first one is caught.
static __noinline int is_redirect4(struct xdp_md *ctx, __u32 l3)
{
	struct iphdr ip;
	__u8 type;

	if (bpf_xdp_load_bytes(ctx, l3, &ip, sizeof(ip)) < 0)
		return 0;
	if (ip.protocol != IPPROTO_ICMP || (ip.frag_off & bpf_htons(0x1fff)))
		return 0;
	if (bpf_xdp_load_bytes(ctx, l3 + ip.ihl * 4, &type, 1) < 0)
		return 0;
	return type == 5;
}

// Whether an IPv6 packet is a router advertisement or redirect (RFC 4861 4.2, 4.5), or hides what it is behind more
// extension headers than anyone honest sends (RFC 7113 section 3 has such packets dropped).
static __noinline int is_ra_or_redirect6(struct xdp_md *ctx, __u32 l3)
{
	__u32 off = l3 + sizeof(struct ipv6hdr);
	__u8 next, ext[4], type;

	if (bpf_xdp_load_bytes(ctx, l3 + __builtin_offsetof(struct ipv6hdr, nexthdr), &next, 1) < 0)
		return 0;
	for (int i = 0; i < 8; i++) {
		switch (next) {
		case IPPROTO_ICMPV6:
			if (bpf_xdp_load_bytes(ctx, off, &type, 1) < 0)
				return 0;
			return type == 134 || type == 137;
		case IPPROTO_HOPOPTS:
		case IPPROTO_ROUTING:
		case IPPROTO_DSTOPTS:
		case IPPROTO_FRAGMENT:
			if (bpf_xdp_load_bytes(ctx, off, ext, sizeof(ext)) < 0)
				return 0;
			// A later fragment starts anywhere; the first one, which tells, is looked at.
			if (next == IPPROTO_FRAGMENT && (ext[2] || (ext[3] & 0xf8)))
				return 0;
			off += next == IPPROTO_FRAGMENT ? 8 : (ext[1] + 1) * 8;
			next = ext[0];
			break;
		default:
			return 0;
		}
	}
	return 1;
}

// Whether a frame that the kernel would take changes what the node believes about its routes. VLAN tags are looked
// through: the kernel takes a frame with VLAN id 0 as if it had none.
static __noinline int attacks_node(struct xdp_md *ctx)
{
	__u32 off = __builtin_offsetof(struct ethhdr, h_proto);
	__be16 proto = 0;

	for (int i = 0; i < 3; i++) {
		if (bpf_xdp_load_bytes(ctx, off, &proto, sizeof(proto)) < 0)
			return 0;
		if (proto != bpf_htons(ETH_P_8021Q) && proto != bpf_htons(ETH_P_8021AD))
			break;
		off += 4;
	}
	off += sizeof(proto);
	if (proto == bpf_htons(ETH_P_IPV6))
		return is_ra_or_redirect6(ctx, off);
	if (proto == bpf_htons(ETH_P_IP))
		return is_redirect4(ctx, off);
	return 0;
}

// A packet too short for its header is a worker's, which counts it as malformed.
static __always_inline enum owner owner4(const void *l3, const void *end, __be32 vrf)
{
	const struct iphdr *ip = l3;

	if ((const void *)(ip + 1) > end)
		return WORKER;

	__u32 dst = bpf_ntohl(ip->daddr);

	// Multicast (224/4), broadcast, link-local (169.254/16).
	if ((dst >> 28) == 0xe || dst == 0xffffffff || (dst >> 16) == 0xa9fe)
		return KERNEL;

	// DHCP answers to an address that the node does not have yet (RFC 2131 4.1).
	if (ip->protocol == IPPROTO_UDP && !(ip->frag_off & bpf_htons(0x1fff))) {
		const struct udphdr *udp = l3 + ip->ihl * 4;

		if ((const void *)(udp + 1) <= end && udp->dest == bpf_htons(68))
			return KERNEL;
	}

	struct local4_key key = { .prefix_len = VRF_BITS + 32, .vrf = vrf, .address = ip->daddr };

	return bpf_map_lookup_elem(&local4, &key) ? KERNEL : WORKER;
}

static __always_inline enum owner owner6(const void *l3, const void *end, __be32 vrf)
{
	const struct ipv6hdr *ip = l3;

	if ((const void *)(ip + 1) > end)
		return WORKER;

	__u8 first = ip->daddr.in6_u.u6_addr8[0], second = ip->daddr.in6_u.u6_addr8[1];

	// Multicast (ff00::/8), link-local (fe80::/10).
	if (first == 0xff || (first == 0xfe && (second & 0xc0) == 0x80))
		return KERNEL;

	struct local6_key key = { .prefix_len = VRF_BITS + 128, .vrf = vrf };

	__builtin_memcpy(&key.address, &ip->daddr, sizeof(key.address));
	return bpf_map_lookup_elem(&local6, &key) ? KERNEL : WORKER;
}

static __always_inline enum owner owner_of(struct xdp_md *ctx, const struct port *port)
{
	const void *data = (const void *)(long)ctx->data, *end = (const void *)(long)ctx->data_end;
	const struct ethhdr *eth = data;
	enum owner owner = KERNEL;

	if ((const void *)(eth + 1) > end)
		return KERNEL;

	int group = eth->h_dest[0] & 1;

	// A bridge floods frames for MACs that it does not know: the kernel drops them as another host's.
	if (!group && !same_mac(eth->h_dest, port->mac))
		return KERNEL;

	if (!group && eth->h_proto == bpf_htons(ETH_P_IP))
		owner = owner4(eth + 1, end, port->vrf);
	else if (!group && eth->h_proto == bpf_htons(ETH_P_IPV6))
		owner = owner6(eth + 1, end, port->vrf);

	if (owner == KERNEL && (port->flags & PORT_GUARDED) && attacks_node(ctx))
		return NOBODY;
	return owner;
}

// Whether the worker of a queue has been given frames for longer than it may take and has done nothing. A sleeping
// worker that is woken by a frame makes a round; only one that does not run makes none. A queue's frames come one after
// another, so that nobody else writes its entry. The clock is read only for frames that come within one round.
static __always_inline int stalled(__u32 key)
{
	struct watch *watch = bpf_map_lookup_elem(&watches, &key);

	if (!watch || !watch->limit_ms)
		return 0;

	__u32 worker = watch->worker;
	volatile struct beat *beat = bpf_map_lookup_elem(&beats, &worker);

	if (!beat)
		return 0;

	__u64 rounds = beat->rounds;

	if (rounds != watch->rounds) {
		watch->rounds = rounds;
		watch->since = 0;
		return 0;
	}

	__u64 now = bpf_ktime_get_coarse_ns();

	if (!watch->since) {
		watch->since = now;
		return 0;
	}
	if (now - watch->since <= watch->limit_ms * 1000000ULL)
		return 0;
	if (beat->stalled != rounds)
		beat->stalled = rounds;
	return 1;
}

// With fragments: large packets come in several buffers, and a device with a large MTU takes no program without them. A
// packet that does not fit one UMEM frame is spread over several, or dropped and counted where the port is not bound for
// that. All headers are looked for in the first buffer.
SEC("xdp.frags")
int steer(struct xdp_md *ctx)
{
	__u32 ifindex = ctx->ingress_ifindex, queue = ctx->rx_queue_index;
	const struct port *port = bpf_map_lookup_elem(&ports, &ifindex);

	if (!port)
		return XDP_PASS;

	switch (owner_of(ctx, port)) {
	case KERNEL:
		return count(ctx, port, PUNTED, XDP_PASS);
	case NOBODY:
		return count(ctx, port, PROTECTED, XDP_DROP);
	default:
		break;
	}

	// Where there is no socket, or none that is served: a closed port must not let the kernel forward what no access list has passed.
	int otherwise = port->flags & PORT_CLOSED ? XDP_DROP : XDP_PASS;
	int action = otherwise;

	if (queue < MAX_QUEUES && queue < port->queues && !stalled(port->slot * MAX_QUEUES + queue))
		action = bpf_redirect_map(&xsks, port->slot * MAX_QUEUES + queue, otherwise);
	if (action == XDP_REDIRECT)
		return count(ctx, port, REDIRECTED, action);
	return count(ctx, port, action == XDP_DROP ? CLOSED : PUNTED, action);
}

char _license[] SEC("license") = "Dual BSD/GPL";
