/*
 * DPDK's route look-ups over the same files as `margay bench lpm`, with the same numbers.
 *
 *   lpm_dpdk [EAL options] -- PREFIXES FAMILY [METHOD...]
 *
 * Loads PREFIXES (one a line; lines of the other family are counted but skipped) for FAMILY (4 or 6) into every
 * METHOD named (all of the family's when none is), prints one `loaded` object a method, and then answers commands
 * on standard input, so that its rounds can alternate with another program's:
 *
 *   run KEYS       one `result` object a method: best of at least PASSES passes over the file, bursts of 64
 *   quit
 *
 * A method is LIBRARY/NEXT-HOP-SIZE/LOOK-UP. `digest` is the sum over the keys of the 1-based line number of the
 * prefix that matched, 0 for none; it is taken in a pass of its own, outside of the timing.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <rte_common.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_fib.h>
#include <rte_fib6.h>
#include <rte_lpm.h>
#include <rte_malloc.h>
#include <rte_rib.h>
#include <rte_rib6.h>

#define BURST 64
/* Passes over the keys, at least, and seconds that they go on at least; the best one counts. */
#define PASSES 5
#define SECONDS 0.4
/* Tables of /24s that hold longer prefixes: the project's table needs 316. */
#define TBL8_V4 8192
/* Nodes of rte_fib6's trie: generous, because a full one fails the load. */
#define TBL8_V6 (1 << 18)

struct prefix {
	union {
		uint32_t v4;
		uint8_t v6[16];
	} addr;
	uint8_t len;
	uint32_t line;
};

static struct prefix *prefixes;
static size_t prefix_count;

enum library { FIB, FIB6, LPM };

struct method {
	const char *name;
	enum library library;
	int size;
	int lookup;
	void *table;
};

enum { LPM_BULK, LPM_X4, LPM_SINGLE };

/* Next hops of 1 and 2 bytes, which the libraries also have, cannot hold a value for each prefix. */

static struct method methods4[] = {
	{ "rte_fib/4B/avx512", FIB, RTE_FIB_DIR24_8_4B, RTE_FIB_LOOKUP_DIR24_8_VECTOR_AVX512, NULL },
	{ "rte_fib/4B/scalar-macro", FIB, RTE_FIB_DIR24_8_4B, RTE_FIB_LOOKUP_DIR24_8_SCALAR_MACRO, NULL },
	{ "rte_fib/4B/scalar-inline", FIB, RTE_FIB_DIR24_8_4B, RTE_FIB_LOOKUP_DIR24_8_SCALAR_INLINE, NULL },
	{ "rte_fib/4B/scalar-uni", FIB, RTE_FIB_DIR24_8_4B, RTE_FIB_LOOKUP_DIR24_8_SCALAR_UNI, NULL },
	{ "rte_fib/8B/avx512", FIB, RTE_FIB_DIR24_8_8B, RTE_FIB_LOOKUP_DIR24_8_VECTOR_AVX512, NULL },
	{ "rte_fib/8B/scalar-macro", FIB, RTE_FIB_DIR24_8_8B, RTE_FIB_LOOKUP_DIR24_8_SCALAR_MACRO, NULL },
	{ "rte_fib/8B/scalar-inline", FIB, RTE_FIB_DIR24_8_8B, RTE_FIB_LOOKUP_DIR24_8_SCALAR_INLINE, NULL },
	{ "rte_fib/8B/scalar-uni", FIB, RTE_FIB_DIR24_8_8B, RTE_FIB_LOOKUP_DIR24_8_SCALAR_UNI, NULL },
	{ "rte_lpm/4B/bulk", LPM, 0, LPM_BULK, NULL },
	{ "rte_lpm/4B/x4", LPM, 0, LPM_X4, NULL },
	{ "rte_lpm/4B/single", LPM, 0, LPM_SINGLE, NULL },
};

static struct method methods6[] = {
	{ "rte_fib6/4B/avx512", FIB6, RTE_FIB6_TRIE_4B, RTE_FIB6_LOOKUP_TRIE_VECTOR_AVX512, NULL },
	{ "rte_fib6/4B/scalar", FIB6, RTE_FIB6_TRIE_4B, RTE_FIB6_LOOKUP_TRIE_SCALAR, NULL },
	{ "rte_fib6/8B/avx512", FIB6, RTE_FIB6_TRIE_8B, RTE_FIB6_LOOKUP_TRIE_VECTOR_AVX512, NULL },
	{ "rte_fib6/8B/scalar", FIB6, RTE_FIB6_TRIE_8B, RTE_FIB6_LOOKUP_TRIE_SCALAR, NULL },
};

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec * 1e-9;
}

static void fail(const char *what, const char *detail)
{
	fprintf(stderr, "lpm_dpdk: %s: %s\n", what, detail);
	exit(1);
}

static void *grown(void *array, size_t count, size_t *room, size_t size)
{
	if (count < *room)
		return array;
	*room = *room ? *room * 2 : 1 << 16;
	array = realloc(array, *room * size);
	if (array == NULL)
		fail("memory", "exhausted");
	return array;
}

static void read_prefixes(const char *path, int family)
{
	FILE *file = fopen(path, "r");
	char text[128];
	size_t room = 0;
	uint32_t line = 0;

	if (file == NULL)
		fail(path, strerror(errno));
	while (fgets(text, sizeof(text), file) != NULL) {
		struct prefix prefix = { .line = ++line };
		char *slash = strchr(text, '/');

		if ((strchr(text, ':') != NULL) != (family == 6))
			continue;
		if (slash == NULL)
			fail("not a prefix", text);
		*slash = 0;
		prefix.len = atoi(slash + 1);
		if (inet_pton(family == 6 ? AF_INET6 : AF_INET, text, &prefix.addr) != 1)
			fail("not an address", text);
		if (family == 4)
			prefix.addr.v4 = ntohl(prefix.addr.v4);
		prefixes = grown(prefixes, prefix_count, &room, sizeof(prefix));
		prefixes[prefix_count++] = prefix;
	}
	fclose(file);
}

static void *read_keys(const char *path, int family, size_t *count)
{
	FILE *file = fopen(path, "r");
	char text[128];
	size_t room = 0, size = family == 6 ? 16 : 4;
	uint8_t *keys = NULL;

	*count = 0;
	if (file == NULL)
		fail(path, strerror(errno));
	while (fgets(text, sizeof(text), file) != NULL) {
		text[strcspn(text, "\r\n")] = 0;
		keys = grown(keys, *count, &room, size);
		if (inet_pton(family == 6 ? AF_INET6 : AF_INET, text, keys + *count * size) != 1)
			fail("not an address", text);
		if (family == 4) {
			uint32_t *key = (uint32_t *)keys + *count;

			*key = ntohl(*key);
		}
		++*count;
	}
	fclose(file);
	return keys;
}

/* The value of a prefix is its line number; 0 is the default next hop, "none". */
static void load(struct method *method, int index)
{
	char name[32];
	double start = now();

	snprintf(name, sizeof(name), "table%d", index);
	if (method->library == FIB) {
		struct rte_fib_conf conf = { .type = RTE_FIB_DIR24_8, .default_nh = 0, .max_routes = prefix_count + 1024 };

		conf.dir24_8.nh_sz = method->size;
		conf.dir24_8.num_tbl8 = TBL8_V4;
		struct rte_fib *fib = rte_fib_create(name, -1, &conf);

		if (fib == NULL)
			fail(method->name, rte_strerror(rte_errno));
		for (size_t i = 0; i < prefix_count; i++)
			if (rte_fib_add(fib, prefixes[i].addr.v4, prefixes[i].len, prefixes[i].line) < 0)
				fail(method->name, "add failed");
		method->table = fib;
	} else if (method->library == FIB6) {
		struct rte_fib6_conf conf = { .type = RTE_FIB6_TRIE, .default_nh = 0, .max_routes = 2 * prefix_count + 1024 };

		conf.trie.nh_sz = method->size;
		conf.trie.num_tbl8 = TBL8_V6;
		struct rte_fib6 *fib = rte_fib6_create(name, -1, &conf);

		if (fib == NULL)
			fail(method->name, rte_strerror(rte_errno));
		for (size_t i = 0; i < prefix_count; i++)
			if (rte_fib6_add(fib, prefixes[i].addr.v6, prefixes[i].len, prefixes[i].line) < 0)
				fail(method->name, "add failed");
		method->table = fib;
	} else {
		struct rte_lpm_config conf = { .max_rules = prefix_count + 1, .number_tbl8s = TBL8_V4, .flags = 0 };
		struct rte_lpm *lpm = rte_lpm_create(name, -1, &conf);

		if (lpm == NULL)
			fail(method->name, rte_strerror(rte_errno));
		for (size_t i = 0; i < prefix_count; i++) {
			/* rte_lpm has no /0; the table here has none either. */
			if (rte_lpm_add(lpm, prefixes[i].addr.v4, prefixes[i].len, prefixes[i].line) < 0)
				fail(method->name, "add failed");
		}
		method->table = lpm;
	}
	printf("{\"loaded\":\"%s\",\"load_seconds\":%.6f}\n", method->name, now() - start);
	fflush(stdout);
}

static void select_lookup(const struct method *method)
{
	int rc = 0;

	if (method->library == FIB)
		rc = rte_fib_select_lookup(method->table, method->lookup);
	else if (method->library == FIB6)
		rc = rte_fib6_select_lookup(method->table, method->lookup);
	if (rc != 0)
		fail(method->name, "this look-up is not to be had here");
}

static inline void lpm_burst(const struct method *method, const uint32_t *keys, unsigned int n, uint32_t *out)
{
	if (method->lookup == LPM_BULK) {
		rte_lpm_lookup_bulk(method->table, keys, out, n);
		return;
	}
	unsigned int i = 0;

	for (; method->lookup == LPM_X4 && i + 4 <= n; i += 4) {
		xmm_t four = _mm_loadu_si128((const __m128i *)(keys + i));

		rte_lpm_lookupx4(method->table, four, out + i, 0);
	}
	for (; i < n; i++)
		if (rte_lpm_lookup(method->table, keys[i], out + i) != 0)
			out[i] = 0;
}

/* One pass over the keys; the digest only when wanted. */
static uint64_t pass(const struct method *method, const void *keys, size_t count, bool digest)
{
	uint64_t next[BURST], sum = 0;
	uint32_t next32[BURST];

	for (size_t at = 0; at < count; at += BURST) {
		unsigned int n = RTE_MIN((size_t)BURST, count - at);

		if (method->library == FIB)
			rte_fib_lookup_bulk(method->table, (uint32_t *)keys + at, next, n);
		else if (method->library == FIB6)
			rte_fib6_lookup_bulk(method->table, (uint8_t(*)[16])keys + at, next, n);
		else
			lpm_burst(method, (const uint32_t *)keys + at, n, next32);
		/* The answers are used: the compiler may leave nothing out. */
		asm volatile("" : : "r"(next), "r"(next32) : "memory");
		if (!digest)
			continue;
		for (unsigned int i = 0; i < n; i++) {
			if (method->library != LPM)
				sum += next[i];
			else if (method->lookup != LPM_BULK)
				sum += next32[i];
			else if (next32[i] & RTE_LPM_LOOKUP_SUCCESS)
				sum += next32[i] & 0xffffff;
		}
	}
	return sum;
}

static void run(struct method *methods, size_t count, const char *path, int family)
{
	size_t key_count;
	void *keys = read_keys(path, family, &key_count);

	for (size_t m = 0; m < count; m++) {
		double best = 1e9;
		uint64_t digest;

		if (methods[m].table == NULL)
			continue;
		select_lookup(&methods[m]);
		digest = pass(&methods[m], keys, key_count, true);
		double begun = now();

		for (int i = 0; i < PASSES || now() - begun < SECONDS; i++) {
			double start = now();

			pass(&methods[m], keys, key_count, false);
			best = RTE_MIN(best, now() - start);
		}
		printf("{\"result\":\"%s\",\"lookups_per_second\":%.0f,\"digest\":%" PRIu64 "}\n", methods[m].name,
		       key_count / best, digest);
		fflush(stdout);
	}
	printf("{\"done\":true}\n");
	fflush(stdout);
	free(keys);
}

int main(int argc, char **argv)
{
	int used = rte_eal_init(argc, argv);

	if (used < 0)
		fail("EAL", rte_strerror(rte_errno));
	argc -= used;
	argv += used;
	if (argc < 3 || (strcmp(argv[2], "4") != 0 && strcmp(argv[2], "6") != 0))
		fail("usage", "lpm_dpdk [EAL options] -- PREFIXES 4|6 [METHOD...]");

	int family = atoi(argv[2]);
	struct method *methods = family == 4 ? methods4 : methods6;
	size_t count = family == 4 ? RTE_DIM(methods4) : RTE_DIM(methods6);

	read_prefixes(argv[1], family);
	for (size_t m = 0; m < count; m++) {
		bool wanted = argc == 3;

		for (int i = 3; i < argc; i++)
			wanted |= strcmp(argv[i], methods[m].name) == 0;
		if (!wanted)
			continue;
		/* Methods that differ only in the look-up share a table. */
		for (size_t other = 0; other < m && methods[m].table == NULL; other++)
			if (methods[other].library == methods[m].library && methods[other].size == methods[m].size)
				methods[m].table = methods[other].table;
		if (methods[m].table == NULL)
			load(&methods[m], m);
	}

	printf("{\"ready\":true}\n");
	fflush(stdout);
	char line[4096];

	while (fgets(line, sizeof(line), stdin) != NULL) {
		line[strcspn(line, "\n")] = 0;
		if (strncmp(line, "run ", 4) == 0)
			run(methods, count, line + 4, family);
		else if (strcmp(line, "quit") == 0)
			break;
		else
			fail("not a command", line);
	}
	rte_eal_cleanup();
	return 0;
}
