/*
 * mgbench: a Kamailio module that times the memory managers bare against the same managers as memguard wraps them,
 * in one process and in turn. It must be loaded before memguard, so that it can keep the managers' own functions.
 * With its parameter `places` every process keeps a block from that many places of each pool, as a large server does.
 * Forbidden here: any header before sr_module.h, or the flag string is not Kamailio's.
 */
#include "core/sr_module.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "core/mem/pkg.h"
#include "core/mem/shm.h"
#include "core/rpc.h"
#include "core/rpc_lookup.h"
#include "core/shm_init.h"

MODULE_VERSION

static sr_pkg_api_t bare_pkg;
static sr_shm_api_t bare_shm;

/* One way to get and free memory: the functions of one table as it was at one moment. */
struct way {
	void *(*take)(void *block, size_t size, const char *file, const char *func, unsigned int line,
			const char *mname);
	void (*give)(void *block, void *p, const char *file, const char *func, unsigned int line, const char *mname);
	void *block;
};

#define LIVE 128

/* Sizes of what a REGISTER makes Kamailio allocate, from small strings to a built message. */
static const size_t sizes[32] = {24, 32, 40, 16, 64, 48, 96, 24, 128, 56, 32, 200, 72, 40, 24, 320, 88, 16, 64, 512, 32,
		112, 48, 24, 256, 64, 40, 700, 32, 80, 160, 1400};

static unsigned long long now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (unsigned long long)t.tv_sec * 1000000000ull + t.tv_nsec;
}

/* Allocates and frees `pairs` blocks of 64 bytes, one at a time; picoseconds per pair. */
static long long one_size(struct way *way, int pairs)
{
	unsigned long long start = now_ns();
	int i;
	for(i = 0; i < pairs; i++) {
		void *p = way->take(way->block, 64, __FILE__, __func__, __LINE__, MOD_NAME);
		if(p == NULL)
			return -1;
		*(volatile char *)p = 1;
		way->give(way->block, p, __FILE__, __func__, __LINE__, MOD_NAME);
	}
	return (long long)((now_ns() - start) * 1000 / pairs);
}

/* Keeps up to 128 blocks of mixed sizes alive and replaces one of them `pairs` times; picoseconds per pair. */
static long long many_sizes(struct way *way, int pairs, unsigned int seed)
{
	void *live[LIVE];
	unsigned long long start, spent;
	int i;
	for(i = 0; i < LIVE; i++)
		live[i] = way->take(way->block, sizes[i % 32], __FILE__, __func__, __LINE__, MOD_NAME);
	start = now_ns();
	for(i = 0; i < pairs; i++) {
		unsigned int slot;
		seed = seed * 1664525u + 1013904223u;
		slot = (seed >> 16) % LIVE;
		if(live[slot])
			way->give(way->block, live[slot], __FILE__, __func__, __LINE__, MOD_NAME);
		live[slot] = way->take(way->block, sizes[(seed >> 24) % 32], __FILE__, __func__, __LINE__, MOD_NAME);
	}
	spent = now_ns() - start;
	for(i = 0; i < LIVE; i++)
		if(live[i])
			way->give(way->block, live[i], __FILE__, __func__, __LINE__, MOD_NAME);
	return (long long)(spent * 1000 / pairs);
}

static long long batch(struct way *way, int is_mix, int pairs, unsigned int seed)
{
	return is_mix ? many_sizes(way, pairs, seed) : one_size(way, pairs);
}

/* The same, from so many calls deep: what a sampled allocation costs grows with the path that it records. */
static __attribute__((noinline)) long long deep(struct way *way, int pairs, int depth)
{
	long long spent = depth > 0 ? deep(way, pairs, depth - 1) : one_size(way, pairs);
	__asm__ volatile(""); /* no tail call: the frame shall stay */
	return spent;
}

#define PAIRS 1000
/* Short batches: one that runs for microseconds per pair would hardly ever be left alone. */
#define FEW_PAIRS 20
#define MOST_ROUNDS 500

/* mgbench.deep POOL DEPTH ROUNDS: picoseconds per pair of 64 bytes, from DEPTH calls deep; as mgbench.run else. */
static void rpc_deep(rpc_t *rpc, void *ctx)
{
	struct way ways[2];
	int pool, depth, rounds, round, which;
	void *answer, *lists[2];
	if(rpc->scan(ctx, "ddd", &pool, &depth, &rounds) < 3 || rounds > MOST_ROUNDS || depth > 100) {
		rpc->fault(ctx, 400, "pool, depth and rounds, please");
		return;
	}
	ways[0] = pool == 0 ? (struct way){bare_pkg.xmalloc, bare_pkg.xfree, bare_pkg.mem_block}
						: (struct way){bare_shm.xmalloc, bare_shm.xfree, bare_shm.mem_block};
	ways[1] = pool == 0 ? (struct way){_pkg_root.xmalloc, _pkg_root.xfree, _pkg_root.mem_block}
						: (struct way){_shm_root.xmalloc, _shm_root.xfree, _shm_root.mem_block};
	if(rpc->add(ctx, "{", &answer) < 0
			|| rpc->struct_add(answer, "[[", "bare", &lists[0], "wrapped", &lists[1]) < 0)
		return;
	for(round = 0; round < rounds; round++)
		for(which = 0; which < 2; which++)
			rpc->array_add(lists[which], "d", (int)deep(&ways[which], FEW_PAIRS, depth));
}

/* mgbench.run POOL(0 pkg, 1 shm) MIX(0, 1) ROUNDS: one round is a batch bare and a batch wrapped, in changing order.
 * Answers lists of picoseconds per pair, round by round. */
static void rpc_run(rpc_t *rpc, void *ctx)
{
	static int spent[MOST_ROUNDS][2];
	struct way ways[2];
	int pool, is_mix, rounds, round;
	void *answer, *bare, *wrapped;
	if(rpc->scan(ctx, "ddd", &pool, &is_mix, &rounds) < 3 || rounds > MOST_ROUNDS) {
		rpc->fault(ctx, 400, "pool, mix and rounds, please");
		return;
	}
	if(pool == 0) {
		ways[0] = (struct way){bare_pkg.xmalloc, bare_pkg.xfree, bare_pkg.mem_block};
		ways[1] = (struct way){_pkg_root.xmalloc, _pkg_root.xfree, _pkg_root.mem_block};
	} else {
		ways[0] = (struct way){bare_shm.xmalloc, bare_shm.xfree, bare_shm.mem_block};
		ways[1] = (struct way){_shm_root.xmalloc, _shm_root.xfree, _shm_root.mem_block};
	}
	for(round = 0; round < rounds; round++) {
		int first = round & 1;
		spent[round][first] = (int)batch(&ways[first], is_mix, PAIRS, round);
		spent[round][!first] = (int)batch(&ways[!first], is_mix, PAIRS, round);
	}
	if(rpc->add(ctx, "{", &answer) < 0
			|| rpc->struct_add(answer, "d[[", "is_wrapped", ways[0].take != ways[1].take, "bare", &bare, "wrapped",
					   &wrapped) < 0)
		return;
	for(round = 0; round < rounds; round++) {
		rpc->array_add(bare, "d", spent[round][0]);
		rpc->array_add(wrapped, "d", spent[round][1]);
	}
}

/* ---- places: a large server's, in every process ---- */

static int places = 0;
#define FILES 40
static char files[FILES][40], owners[FILES][16];

static void take_from_all_places(void)
{
	int i;
	for(i = 0; i < places; i++) {
		const char *file = files[i % FILES], *module = owners[i % FILES];
		_shm_root.xmalloc(_shm_root.mem_block, sizes[i % 32], file, "a_place", 10 + i, module);
		_pkg_root.xmalloc(_pkg_root.mem_block, sizes[i % 32], file, "a_place", 10 + i, module);
	}
}

static int child_init(int rank)
{
	if(rank != PROC_INIT && rank != PROC_MAIN)
		take_from_all_places();
	return 0;
}

static param_export_t params[] = {{"places", PARAM_INT, &places}, {0, 0, 0}};

static const char *doc[] = {"For memguard's benchmarks.", 0};
static rpc_export_t rpcs[] = {{"mgbench.run", rpc_run, doc, 0}, {"mgbench.deep", rpc_deep, doc, 0}, {0, 0, 0, 0}};

struct module_exports exports = {.name = "mgbench",
		.dlflags = DEFAULT_DLFLAGS,
		.params = params,
		.rpc_methods = rpcs,
		.init_child_f = child_init};

/* Runs when the module is loaded: memguard comes later and wraps what is kept here. */
int mod_register(char *path, int *dlflags, void *p1, void *p2)
{
	int i;
	for(i = 0; i < FILES; i++) {
		snprintf(owners[i], sizeof(owners[i]), "bench%d", i);
		snprintf(files[i], sizeof(files[i]), "bench%d: bench_%d.c", i, i);
	}
	if(!shm_initialized() && init_shm() < 0)
		return -1;
	bare_pkg = _pkg_root;
	bare_shm = _shm_root;
	return 0;
}
