/*
 * Faults on demand: the n-th allocation of a pool fails in one process, once or from then on. With MGTEST_FAULTS in
 * the environment the managers' functions are wrapped when the module is loaded: load it before memguard, which then
 * sees the faults as it sees an empty pool.
 * Forbidden here: a fault that nobody asked for.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "core/events.h"
#include "core/shm_init.h"

enum { PKG = 0, SHM = 1 };

/* Shared by all processes; one process at a time is armed, so nobody else writes. */
struct faults {
	int process; /* core.psx index of the process; -1: none */
	int pool;
	int nth;     /* counted from 1 */
	int forever; /* and every later one */
	int seen;    /* allocations since it was armed */
	int failed;  /* of those, how many failed */
	unsigned long long all_failed[2]; /* since the start, by pool */
	const char *file; /* the last one that failed */
	const char *func;
	unsigned line;
};
static struct faults *faults = NULL;
static sr_pkg_api_t real_pkg;
static sr_shm_api_t real_shm;

static int must_fail(int pool, const char *file, const char *func, unsigned line)
{
	if(faults->process != process_no || faults->pool != pool)
		return 0;
	faults->seen++;
	if(faults->seen != faults->nth && !(faults->forever && faults->seen > faults->nth))
		return 0;
	faults->failed++;
	faults->all_failed[pool]++;
	faults->file = file;
	faults->func = func;
	faults->line = line;
	return 1;
}

#define PLACE const char *file, const char *func, unsigned line, const char *mname
#define FAULTY_MALLOC(name, pool, real)                                        \
	static void *name(void *b, size_t size, PLACE)                             \
	{                                                                          \
		return must_fail(pool, file, func, line)                               \
					   ? NULL                                                  \
					   : real(b, size, file, func, line, mname);               \
	}
/* A realloc that fails keeps the old block, reallocxf and resize free it. */
#define FAULTY_REALLOC(name, pool, real, on_fault)                             \
	static void *name(void *b, void *p, size_t size, PLACE)                    \
	{                                                                          \
		if(size == 0 || !must_fail(pool, file, func, line))                    \
			return real(b, p, size, file, func, line, mname);                  \
		on_fault;                                                              \
		return NULL;                                                           \
	}
#define GIVE(free) if(p) free(b, p, file, func, line, mname)

FAULTY_MALLOC(faulty_pkg_malloc, PKG, real_pkg.xmalloc)
FAULTY_MALLOC(faulty_pkg_mallocxz, PKG, real_pkg.xmallocxz)
FAULTY_REALLOC(faulty_pkg_realloc, PKG, real_pkg.xrealloc, )
FAULTY_REALLOC(faulty_pkg_reallocxf, PKG, real_pkg.xreallocxf, GIVE(real_pkg.xfree))
FAULTY_MALLOC(faulty_shm_malloc, SHM, real_shm.xmalloc)
FAULTY_MALLOC(faulty_shm_mallocxz, SHM, real_shm.xmallocxz)
FAULTY_MALLOC(faulty_shm_malloc_unsafe, SHM, real_shm.xmalloc_unsafe)
FAULTY_REALLOC(faulty_shm_realloc, SHM, real_shm.xrealloc, )
FAULTY_REALLOC(faulty_shm_reallocxf, SHM, real_shm.xreallocxf, GIVE(real_shm.xfree))
FAULTY_REALLOC(faulty_shm_resize, SHM, real_shm.xresize, GIVE(real_shm.xfree))

static void arm(int process, int pool, int nth, int forever)
{
	faults->process = -1;
	faults->pool = pool;
	faults->nth = nth;
	faults->forever = forever;
	faults->seen = faults->failed = 0;
	faults->file = faults->func = NULL;
	faults->process = process;
}

/* Before Kamailio allocates anything for a message: "X-Fail: shm 12 once" arms, a message without it disarms. */
static int on_message(sr_event_param_t *event)
{
	static const char name[] = "X-Fail: ";
	str *text = (str *)event->data;
	char *at = memmem(text->s, text->len, name, sizeof(name) - 1);
	char pool[4] = "", how[8] = "", line[32] = "";
	int nth = 0;

	if(at == NULL) {
		if(faults->process == process_no)
			faults->process = -1;
		return 0;
	}
	at += sizeof(name) - 1;
	memcpy(line, at, text->s + text->len - at < 31 ? text->s + text->len - at : 31);
	if(sscanf(line, "%3s %d %7s", pool, &nth, how) == 3)
		arm(process_no, strcmp(pool, "shm") == 0 ? SHM : PKG, nth, strcmp(how, "forever") == 0);
	return 0;
}

/* init_shm() writes the shared pool's table, so it comes first. */
static int install_faults(void)
{
	faults = mmap(NULL, sizeof(*faults), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if(faults == MAP_FAILED || (!shm_initialized() && init_shm() < 0))
		return -1;
	faults->process = -1;
	real_pkg = _pkg_root;
	real_shm = _shm_root;
	_pkg_root.xmalloc = faulty_pkg_malloc;
	_pkg_root.xmallocxz = faulty_pkg_mallocxz;
	_pkg_root.xrealloc = faulty_pkg_realloc;
	_pkg_root.xreallocxf = faulty_pkg_reallocxf;
	_shm_root.xmalloc = faulty_shm_malloc;
	_shm_root.xmallocxz = faulty_shm_mallocxz;
	_shm_root.xmalloc_unsafe = faulty_shm_malloc_unsafe;
	_shm_root.xrealloc = faulty_shm_realloc;
	_shm_root.xreallocxf = faulty_shm_reallocxf;
	_shm_root.xresize = faulty_shm_resize;
	return 0;
}

static int watch_messages(void)
{
	return faults ? sr_event_register_cb(SREV_NET_DATA_IN, on_message) : 0;
}

/* mgtest.fail INDEX POOL NTH FOREVER arms a process from another one; NTH 0 disarms. */
static void rpc_fail(rpc_t *rpc, void *ctx)
{
	int process, pool, nth, forever;
	if(faults == NULL || rpc->scan(ctx, "dddd", &process, &pool, &nth, &forever) < 4) {
		rpc->fault(ctx, 400, "MGTEST_FAULTS; index, pool (0 pkg, 1 shm), n-th, forever, please");
		return;
	}
	arm(nth > 0 ? process : -1, pool, nth, forever);
	rpc->add(ctx, "d", 1);
}

/* What came of the last arming. */
static void rpc_faults(rpc_t *rpc, void *ctx)
{
	void *answer;
	if(faults == NULL || rpc->add(ctx, "{", &answer) < 0)
		return;
	rpc->struct_add(answer, "ddJJssd", "seen", faults->seen, "failed", faults->failed,
			"pkg_failed", faults->all_failed[PKG], "shm_failed", faults->all_failed[SHM],
			"file", faults->file ? faults->file : "", "function",
			faults->func ? faults->func : "", "line", (int)faults->line);
}
