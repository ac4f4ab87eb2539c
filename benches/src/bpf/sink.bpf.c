// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 OR MIT
//
// The receiver: counts the generator's packets as they leave the router, checks that they were routed, notes when the last one
// came, and drops them. Everything else goes to the stack.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

struct expected {
	__u32 macs[3]; // destination and source after the router
	__u8 ttl;      // 0: any
	__u8 stamp;    // note times: costs 30 ns a packet, so only measurements of latency ask for it
	__u8 pad[2];
};

struct seen {
	__u64 good;     // routed as expected
	__u64 bad;      // other MACs or another TTL
	__u64 bytes;    // of the good ones
	__u64 first_ns; // when the first good one came, CLOCK_MONOTONIC; user space sets it to 0
	__u64 last_ns;  // when the last good one came
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct expected);
} expected SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct seen);
} seen SEC(".maps");

SEC("xdp")
int sink(struct xdp_md *ctx)
{
	__u8 *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 key = 0;
	__u8 proto, ttl;
	__u16 port;
	__u32 *macs;

	if (data + 58 > end)
		return XDP_PASS;
	if (*(__u16 *)(data + 12) == bpf_htons(ETH_P_IP)) {
		ttl = data[22];
		proto = data[23];
		port = *(__u16 *)(data + 36);
	} else if (*(__u16 *)(data + 12) == bpf_htons(ETH_P_IPV6)) {
		ttl = data[21];
		proto = data[20];
		port = *(__u16 *)(data + 56);
	} else {
		return XDP_PASS;
	}
	// UDP to the discard port (RFC 863) is what the generator sends.
	if (proto != 17 || port != bpf_htons(9))
		return XDP_PASS;
	struct expected *e = bpf_map_lookup_elem(&expected, &key);
	struct seen *s = bpf_map_lookup_elem(&seen, &key);
	if (!e || !s)
		return XDP_ABORTED;
	macs = (__u32 *)data;
	if (macs[0] != e->macs[0] || macs[1] != e->macs[1] || macs[2] != e->macs[2] || (e->ttl && e->ttl != ttl)) {
		s->bad++;
		return XDP_DROP;
	}
	s->good++;
	s->bytes += end - data;
	if (e->stamp) {
		s->last_ns = bpf_ktime_get_ns();
		if (!s->first_ns)
			s->first_ns = s->last_ns;
	}
	return XDP_DROP;
}

char _license[] SEC("license") = "Dual MIT/GPL";
