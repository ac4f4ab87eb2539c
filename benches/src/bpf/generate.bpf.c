// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 OR MIT
//
// The packet generator. Never attached: user space runs it with BPF_PROG_TEST_RUN and live frames, so that the kernel sends
// what it returns. It costs less a packet than any socket.
//
// The kernel recycles the pages of frames that were sent, with whatever the last receiver wrote into them: the whole head of
// the frame is written every time.

#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define HEAD 64

struct config {
	__u64 head[HEAD / 8]; // the frame of flow 0, from the destination MAC on
	__u32 ifindex;        // where frames leave
	__u32 flows;          // how many source ports take turns
	__u32 port_at;        // where the UDP source port stands: 34 (IPv4) or 54 (IPv6)
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct config);
} config SEC(".maps");

// Written by the only thread that runs the program.
__u32 turn = 0;

static __always_inline void vary(void *data, __u32 port_at, __u16 by)
{
	__u16 *port = data + port_at, *check = data + port_at + 6;
	__u16 old = *port;
	__u16 new = bpf_htons(bpf_ntohs(old) + by);
	// RFC 1624 3, equation 3.
	__u32 sum = (__u16)~*check + (__u32)(__u16)~old + new;

	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	*port = new;
	sum = (__u16)~sum;
	// RFC 768: zero would mean that there is no checksum.
	*check = sum ? sum : 0xffff;
}

SEC("xdp")
int generate(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 key = 0, now;
	struct config *c = bpf_map_lookup_elem(&config, &key);

	if (!c || data + HEAD > end)
		return XDP_ABORTED;
	__u64 *to = data;
#pragma unroll
	for (int i = 0; i < HEAD / 8; i++)
		to[i] = c->head[i];
	now = turn + 1;
	if (now >= c->flows)
		now = 0;
	turn = now;
	if (c->port_at == 34)
		vary(data, 34, now);
	else
		vary(data, 54, now);
	return bpf_redirect(c->ifindex, 0);
}

char _license[] SEC("license") = "Dual MIT/GPL";
