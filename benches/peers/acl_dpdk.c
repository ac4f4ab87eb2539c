/* rte_acl over the files of `margay bench acl`: the peer of our access lists.
 *
 * usage: acl_dpdk RULES KEYS [ROUNDS] [MILLISECONDS] [serve]
 *
 * RULES in ClassBench format, KEYS as `src dst sport dport proto EXPECTED` (see DESIGN, bench formats). Every method that this
 * CPU and this DPDK have is checked against EXPECTED and measured with bulk calls in bursts of 64. One JSON object a
 * line: {"method": ..., "lookups_per_second": ..., "load_seconds": ..., "bytes": ..., "mismatches": ...}. With `serve` it
 * then measures the best method once more for each line on stdin, so that a caller can alternate with another program.
 *
 * build: cc -O3 -march=native acl_dpdk.c -o acl_dpdk $(pkg-config --cflags --libs libdpdk)
 */
#include <arpa/inet.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <rte_acl.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_malloc.h>
#include <rte_vect.h>

#define BURST 64

/* A header as rte_acl reads it: network byte order, fields in groups of four bytes behind the first one. */
struct key4 {
	uint8_t proto;
	uint8_t pad[3];
	uint32_t src, dst;
	uint16_t sport, dport;
};

struct key6 {
	uint8_t proto;
	uint8_t pad[3];
	uint32_t src[4], dst[4];
	uint16_t sport, dport;
};

static const struct rte_acl_field_def fields4[] = {
	{RTE_ACL_FIELD_TYPE_BITMASK, 1, 0, 0, offsetof(struct key4, proto)},
	{RTE_ACL_FIELD_TYPE_MASK, 4, 1, 1, offsetof(struct key4, src)},
	{RTE_ACL_FIELD_TYPE_MASK, 4, 2, 2, offsetof(struct key4, dst)},
	{RTE_ACL_FIELD_TYPE_RANGE, 2, 3, 3, offsetof(struct key4, sport)},
	{RTE_ACL_FIELD_TYPE_RANGE, 2, 4, 3, offsetof(struct key4, dport)},
};

#define WORD6(field, n, i) {RTE_ACL_FIELD_TYPE_MASK, 4, n, n, offsetof(struct key6, field) + 4 * (i)}
static const struct rte_acl_field_def fields6[] = {
	{RTE_ACL_FIELD_TYPE_BITMASK, 1, 0, 0, offsetof(struct key6, proto)},
	WORD6(src, 1, 0), WORD6(src, 2, 1), WORD6(src, 3, 2), WORD6(src, 4, 3),
	WORD6(dst, 5, 0), WORD6(dst, 6, 1), WORD6(dst, 7, 2), WORD6(dst, 8, 3),
	{RTE_ACL_FIELD_TYPE_RANGE, 2, 9, 9, offsetof(struct key6, sport)},
	{RTE_ACL_FIELD_TYPE_RANGE, 2, 10, 9, offsetof(struct key6, dport)},
};

RTE_ACL_RULE_DEF(rule6, RTE_DIM(fields6));

static void die(const char *what, const char *detail)
{
	fprintf(stderr, "acl_dpdk: %s: %s\n", what, detail);
	exit(1);
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec * 1e-9;
}

/* Reads "ADDR/LEN"; gives the family. Address words in host order. */
static int prefix(char *text, uint32_t word[4], int *len)
{
	char *slash = strchr(text, '/');
	if (!slash)
		die("not a prefix", text);
	*slash = 0;
	*len = atoi(slash + 1);
	struct in6_addr a;
	if (inet_pton(AF_INET, text, &a) == 1) {
		word[0] = ntohl(*(uint32_t *)&a);
		return 4;
	}
	if (inet_pton(AF_INET6, text, &a) != 1)
		die("not a prefix", text);
	for (int i = 0; i < 4; i++)
		word[i] = ntohl(((uint32_t *)&a)[i]);
	return 6;
}

static void set_prefix(struct rte_acl_field *field, int words, const uint32_t word[4], int len)
{
	for (int i = 0; i < words; i++) {
		int bits = len - 32 * i;
		field[i].value.u32 = word[i];
		field[i].mask_range.u32 = bits < 0 ? 0 : bits > 32 ? 32 : bits;
	}
}

/* Reads the rules; gives their family, -1 when there are none of either. */
static int load(const char *path, struct rte_acl_ctx **ctx, struct rte_acl_config *cfg, unsigned *count)
{
	FILE *f = fopen(path, "r");
	if (!f)
		die("cannot open", path);
	char line[512];
	unsigned rules = 0;
	while (fgets(line, sizeof line, f))
		rules++;
	rewind(f);
	int family = 0;
	for (unsigned i = 0; fgets(line, sizeof line, f); i++) {
		char src[64], dst[64];
		unsigned slo, shi, dlo, dhi, proto, mask;
		if (sscanf(line, "@%63s %63s %u : %u %u : %u %x/%x", src, dst, &slo, &shi, &dlo, &dhi, &proto, &mask) != 8)
			die("not a rule", line);
		uint32_t s[4] = {0}, d[4] = {0};
		int slen, dlen;
		int fam = prefix(src, s, &slen);
		prefix(dst, d, &dlen);
		if (!family) {
			family = fam;
			struct rte_acl_param param = {
				.name = "peer",
				.socket_id = SOCKET_ID_ANY,
				.rule_size = RTE_ACL_RULE_SZ(fam == 4 ? RTE_DIM(fields4) : RTE_DIM(fields6)),
				.max_rule_num = rules,
			};
			*ctx = rte_acl_create(&param);
			if (!*ctx)
				die("rte_acl_create", rte_strerror(rte_errno));
			memset(cfg, 0, sizeof *cfg);
			cfg->num_categories = 1;
			cfg->num_fields = fam == 4 ? RTE_DIM(fields4) : RTE_DIM(fields6);
			memcpy(cfg->defs, fam == 4 ? fields4 : fields6, fam == 4 ? sizeof fields4 : sizeof fields6);
		}
		if (fam != family)
			die("families mixed in", path);
		struct rule6 r;
		memset(&r, 0, sizeof r);
		/* The greatest priority wins; userdata 0 means no match. */
		r.data.category_mask = 1;
		r.data.priority = RTE_ACL_MAX_PRIORITY - i;
		r.data.userdata = i + 1;
		int words = fam == 4 ? 1 : 4;
		r.field[0].value.u8 = proto;
		r.field[0].mask_range.u8 = mask;
		set_prefix(&r.field[1], words, s, slen);
		set_prefix(&r.field[1 + words], words, d, dlen);
		r.field[1 + 2 * words].value.u16 = slo;
		r.field[1 + 2 * words].mask_range.u16 = shi;
		r.field[2 + 2 * words].value.u16 = dlo;
		r.field[2 + 2 * words].mask_range.u16 = dhi;
		if (rte_acl_add_rules(*ctx, (struct rte_acl_rule *)&r, 1))
			die("rte_acl_add_rules", line);
		*count = i + 1;
	}
	fclose(f);
	return family;
}

static size_t read_keys(const char *path, int family, uint8_t **keys, int32_t **expected)
{
	FILE *f = fopen(path, "r");
	if (!f)
		die("cannot open", path);
	size_t n = 0, room = 1 << 16, size = family == 4 ? sizeof(struct key4) : sizeof(struct key6);
	*keys = malloc(room * size);
	*expected = malloc(room * 4);
	char line[256], src[64], dst[64];
	while (fgets(line, sizeof line, f)) {
		unsigned sport, dport, proto;
		int want;
		if (sscanf(line, "%63s %63s %u %u %u %d", src, dst, &sport, &dport, &proto, &want) != 6)
			die("not a key", line);
		if (n == room) {
			room *= 2;
			*keys = realloc(*keys, room * size);
			*expected = realloc(*expected, room * 4);
		}
		memset(*keys + n * size, 0, size);
		if (family == 4) {
			struct key4 *k = (struct key4 *)*keys + n;
			*k = (struct key4){proto, {0}, htonl(strtoul(src, 0, 10)), htonl(strtoul(dst, 0, 10)), htons(sport), htons(dport)};
		} else {
			struct key6 *k = (struct key6 *)*keys + n;
			k->proto = proto;
			if (inet_pton(AF_INET6, src, k->src) != 1 || inet_pton(AF_INET6, dst, k->dst) != 1)
				die("not an IPv6 key", line);
			k->sport = htons(sport);
			k->dport = htons(dport);
		}
		(*expected)[n++] = want;
	}
	fclose(f);
	return n;
}

/* Classifications a second: the best of the rounds. */
static double measure(struct rte_acl_ctx *ctx, const uint8_t **data, size_t n, enum rte_acl_classify_alg alg, int rounds, double least)
{
	uint32_t result[BURST];
	double best = 0;
	for (int r = 0; r < rounds; r++) {
		size_t done = 0;
		double start = now();
		do {
			for (size_t i = 0; i < n; i += BURST)
				rte_acl_classify_alg(ctx, data + i, result, n - i < BURST ? n - i : BURST, 1, alg);
			done += n;
		} while (now() - start < least);
		double rate = done / (now() - start);
		if (rate > best)
			best = rate;
	}
	return best;
}

int main(int argc, char **argv)
{
	if (argc < 3)
		die("usage", "acl_dpdk RULES KEYS [ROUNDS] [MILLISECONDS]");
	int rounds = argc > 3 ? atoi(argv[3]) : 5;
	double least = (argc > 4 ? atoi(argv[4]) : 100) / 1e3;
	char *eal[] = {argv[0], "--no-huge", "--no-pci", "--no-telemetry", "--log-level=critical",
		       "--force-max-simd-bitwidth=512", "-m", "6144", "-l", "0"};
	/* EAL pins the thread; a run that shares the machine lets the caller choose the core. */
	char core[16];
	snprintf(core, sizeof core, "%s", getenv("PEER_CORE") ? getenv("PEER_CORE") : "0");
	eal[RTE_DIM(eal) - 1] = core;
	if (rte_eal_init(RTE_DIM(eal), eal) < 0)
		die("rte_eal_init", rte_strerror(rte_errno));
	/* Without this the AVX-512 methods refuse to run. */
	rte_vect_set_max_simd_bitwidth(RTE_VECT_SIMD_512);

	struct rte_acl_ctx *ctx = NULL;
	struct rte_acl_config cfg;
	unsigned count = 0;
	int family = load(argv[1], &ctx, &cfg, &count);
	if (!family)
		die("no rules in", argv[1]);
	double start = now();
	int err = rte_acl_build(ctx, &cfg);
	double build = now() - start;
	if (err)
		die("rte_acl_build", rte_strerror(-err));
	/* The context lives in the EAL's heap: what it holds now is what was built and what it was built from. */
	struct rte_malloc_socket_stats heap;
	size_t bytes = 0;
	for (int s = 0; s < RTE_MAX_NUMA_NODES; s++)
		if (rte_malloc_get_socket_stats(s, &heap) == 0)
			bytes += heap.heap_allocsz_bytes;

	uint8_t *keys;
	int32_t *expected;
	size_t n = read_keys(argv[2], family, &keys, &expected), size = family == 4 ? sizeof(struct key4) : sizeof(struct key6);
	const uint8_t **data = malloc(n * sizeof *data);
	for (size_t i = 0; i < n; i++)
		data[i] = keys + i * size;

	static const struct {
		enum rte_acl_classify_alg alg;
		const char *name;
	} methods[] = {
		{RTE_ACL_CLASSIFY_SCALAR, "scalar"},	 {RTE_ACL_CLASSIFY_SSE, "sse"},
		{RTE_ACL_CLASSIFY_AVX2, "avx2"},	 {RTE_ACL_CLASSIFY_AVX512X16, "avx512x16"},
		{RTE_ACL_CLASSIFY_AVX512X32, "avx512x32"},
	};
	double fastest = 0;
	enum rte_acl_classify_alg alg = RTE_ACL_CLASSIFY_SCALAR;
	for (size_t m = 0; m < RTE_DIM(methods); m++) {
		uint32_t result[BURST];
		if (rte_acl_classify_alg(ctx, data, result, 1, 1, methods[m].alg))
			continue;
		size_t wrong = 0;
		for (size_t i = 0; i < n; i += BURST) {
			unsigned len = n - i < BURST ? n - i : BURST;
			rte_acl_classify_alg(ctx, data + i, result, len, 1, methods[m].alg);
			for (unsigned k = 0; k < len; k++)
				wrong += (int32_t)result[k] - 1 != expected[i + k];
		}
		double best = measure(ctx, data, n, methods[m].alg, rounds, least);
		if (best > fastest) {
			fastest = best;
			alg = methods[m].alg;
		}
		printf("{\"method\": \"%s\", \"rules\": %u, \"lookups_per_second\": %.0f, \"load_seconds\": %.4f, \"bytes\": %zu, \"mismatches\": %zu}\n",
		       methods[m].name, count, best, build, bytes, wrong);
	}
	if (argc > 5 && !strcmp(argv[5], "serve")) {
		char line[16];
		puts("ready");
		fflush(stdout);
		while (fgets(line, sizeof line, stdin)) {
			printf("%.0f\n", measure(ctx, data, n, alg, rounds, least));
			fflush(stdout);
		}
	}
	return 0;
}
