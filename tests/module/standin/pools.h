/*
 * Two small pools, and the switch that lets their n-th allocation fail. Blocks and control block have the layout of
 * the manager whose name the pool bears (layout.h); everything else about them is this file's own.
 * Forbidden here: a fault that nobody asked for; Kamailio's code.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "layout.h"

enum { PKG, SHM, MAP, HEAP, FORK, KINDS };
static const char *const kinds[KINDS] = {"pkg", "shm", "map", "heap", "fork"};

/* Shared by all processes; one is armed at a time. */
static struct faults {
	int process; /* its pid; 0: none */
	int kind;
	long nth;    /* counted from 1 */
	int forever; /* and every later one */
	long seen;   /* since it was armed */
	long failed; /* of those */
	long all_failed[KINDS];
} *faults;

static int must_fail(int kind)
{
	if(faults == NULL || faults->process == 0 || faults->kind != kind || faults->process != getpid())
		return 0;
	faults->seen++;
	if(faults->seen != faults->nth && !(faults->forever && faults->seen > faults->nth))
		return 0;
	faults->failed++;
	faults->all_failed[kind]++;
	return 1;
}

/* ------------------------------------------------------------------------------------- the system's memory */

static void *map(void *at, size_t length, int prot, int flags, int fd, off_t offset)
{
	return (void *)syscall(SYS_mmap, at, length, prot, flags, fd, offset);
}

#define FAULTY_MAP(name)                                                              \
	void *name(void *at, size_t length, int prot, int flags, int fd, off_t offset)    \
	{                                                                                 \
		if(!must_fail(MAP))                                                           \
			return map(at, length, prot, flags, fd, offset);                          \
		errno = ENOMEM;                                                               \
		return MAP_FAILED;                                                            \
	}
FAULTY_MAP(mmap)
FAULTY_MAP(mmap64)

/* The C library's own functions under the names that it keeps for those who replace the usual ones. */
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *p, size_t size);
void *__libc_memalign(size_t alignment, size_t size);

void *malloc(size_t size)
{
	return must_fail(HEAP) ? NULL : __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
	return must_fail(HEAP) ? NULL : __libc_calloc(count, size);
}

void *realloc(void *p, size_t size)
{
	return must_fail(HEAP) ? NULL : __libc_realloc(p, size);
}

int posix_memalign(void **out, size_t alignment, size_t size)
{
	void *p = must_fail(HEAP) ? NULL : __libc_memalign(alignment, size);

	if(p == NULL)
		return ENOMEM;
	*out = p;
	return 0;
}

/* --------------------------------------------------------------------------------------------- the pools */

#define HEADER 96         /* before each block; no manager's is longer */
#define GRAIN 16          /* sizes are multiples of it */
#define CONTROL (1 << 19) /* holds any manager's control block */

struct pool {
	char *control;
	char *first;
	size_t length;
	pthread_mutex_t *lock; /* NULL: the private pool */
	int kind;
};
static struct pool pools[2];
static struct layout layout;
static const char *manager;

/* tlsf has no header file that tells its layout; memguard's own knowledge of it is in src/host/memory/hooks/manager.rs */
static const struct layout layout_tlsf = {8, ~3ul, 8, 1, 40, 32, 24, 16, 64, 72, 80, 96};

/* Blocks of another build than memguard's headers say: one word lies elsewhere. */
static int misfit(const char *word)
{
	if(strcmp(word, "size") == 0)
		layout.size_back = HEADER;
	else if(strcmp(word, "used") == 0)
		layout.block_used += 16, layout.block_real_used += 16;
	else
		return -1;
	return 0;
}

static int choose_manager(const char *name)
{
	layout = strcmp(name, "qm") == 0 ? layout_qm : strcmp(name, "fm") == 0 ? layout_fm : layout_tlsf;
	manager = strcmp(name, "qm") == 0 ? "q_malloc" : strcmp(name, "fm") == 0 ? "f_malloc" : "tlsf_malloc";
	return layout.size_back <= HEADER && layout.file_back <= HEADER && layout.free_back <= HEADER;
}

static unsigned long *word(char *block, unsigned back)
{
	return (unsigned long *)(block - back);
}

static size_t size_of(char *block)
{
	return *word(block, layout.size_back) & layout.size_mask;
}

static void set_size(char *block, size_t size)
{
	unsigned long *at = word(block, layout.size_back);

	*at = (*at & ~layout.size_mask) | size;
}

static int is_free(char *block)
{
	return (*word(block, layout.free_back) & layout.free_mask) != 0;
}

static void mark(char *block, int free)
{
	unsigned long *at = word(block, layout.free_back);

	*at = free ? *at | layout.free_mask : *at & ~layout.free_mask;
}

static void book(struct pool *pool, long bytes, long blocks)
{
	*(unsigned long *)(pool->control + layout.block_used) += bytes;
	*(unsigned long *)(pool->control + layout.block_real_used) += bytes + blocks * HEADER;
}

static int open_pool(int kind, size_t length)
{
	struct pool *pool = &pools[kind];
	pthread_mutexattr_t shared;

	pool->control = map(NULL, CONTROL + length, PROT_READ | PROT_WRITE,
			(kind == SHM ? MAP_SHARED : MAP_PRIVATE) | MAP_ANONYMOUS, -1, 0);
	if(pool->control == MAP_FAILED)
		return -1;
	pool->first = pool->control + CONTROL;
	pool->length = length;
	pool->kind = kind;
	if(kind == SHM) {
		pool->lock = (pthread_mutex_t *)(pool->control + CONTROL - 256);
		pthread_mutexattr_init(&shared);
		pthread_mutexattr_setpshared(&shared, PTHREAD_PROCESS_SHARED);
		pthread_mutex_init(pool->lock, &shared);
	}
	*(unsigned long *)(pool->control + layout.block_size) = length;
	set_size(pool->first + HEADER, length - HEADER);
	mark(pool->first + HEADER, 1);
	return 0;
}

static struct pool *pool_of(void *control)
{
	return control == pools[PKG].control ? &pools[PKG] : &pools[SHM];
}

static void lock_pool(struct pool *pool)
{
	if(pool->lock)
		pthread_mutex_lock(pool->lock);
}

static void unlock_pool(struct pool *pool)
{
	if(pool->lock)
		pthread_mutex_unlock(pool->lock);
}

/* The block after this one; NULL at the end. */
static char *after(struct pool *pool, char *block)
{
	char *next = block + size_of(block) + HEADER;

	return next < pool->first + pool->length ? next : NULL;
}

/* Cuts a block to this size where the rest is a block, too. */
static void cut(struct pool *pool, char *block, size_t size)
{
	size_t whole = size_of(block);

	if(whole < size + HEADER + GRAIN)
		return;
	set_size(block, size);
	memset(block + size, 0, HEADER);
	set_size(block + size + HEADER, whole - size - HEADER);
	mark(block + size + HEADER, 1);
	(void)pool;
}

#define PLACE const char *file, const char *func, unsigned line, const char *mname
#define ITS_PLACE file, func, line, mname

static char *take(struct pool *pool, size_t size, PLACE)
{
	char *block, *next;

	size = size < GRAIN ? GRAIN : (size + GRAIN - 1) / GRAIN * GRAIN;
	for(block = pool->first + HEADER; block; block = after(pool, block)) {
		if(!is_free(block))
			continue;
		while((next = after(pool, block)) && is_free(next))
			set_size(block, size_of(block) + HEADER + size_of(next));
		if(size_of(block) < size)
			continue;
		cut(pool, block, size);
		mark(block, 0);
		*word(block, layout.file_back) = (unsigned long)file;
		*word(block, layout.func_back) = (unsigned long)func;
		*word(block, layout.mname_back) = (unsigned long)mname;
		*(unsigned *)word(block, layout.line_back) = line;
		book(pool, size_of(block), 1);
		return block;
	}
	return NULL;
}

static void give(struct pool *pool, char *block)
{
	if(is_free(block)) {
		fprintf(stderr, "CRITICAL: a block of %s is freed twice\n", kinds[pool->kind]);
		abort();
	}
	book(pool, -(long)size_of(block), -1);
	mark(block, 1);
}

static char *change(struct pool *pool, char *block, size_t size, PLACE)
{
	size_t old = size_of(block);
	char *moved;

	if(size <= old) {
		cut(pool, block, (size + GRAIN - 1) / GRAIN * GRAIN);
		book(pool, (long)size_of(block) - (long)old, 0);
		return block;
	}
	moved = take(pool, size, ITS_PLACE);
	if(moved != NULL) {
		memcpy(moved, block, old);
		give(pool, block);
	}
	return moved;
}

/* The functions of the tables. */

static void *pool_malloc(void *control, size_t size, PLACE)
{
	struct pool *pool = pool_of(control);
	void *block;

	if(must_fail(pool->kind))
		return NULL;
	lock_pool(pool);
	block = take(pool, size, ITS_PLACE);
	unlock_pool(pool);
	return block;
}

static void *pool_mallocxz(void *control, size_t size, PLACE)
{
	void *block = pool_malloc(control, size, ITS_PLACE);

	return block ? memset(block, 0, size) : NULL;
}

static void pool_free(void *control, void *block, PLACE)
{
	struct pool *pool = pool_of(control);

	if(block == NULL)
		return;
	lock_pool(pool);
	give(pool, block);
	unlock_pool(pool);
}

static void *pool_realloc(void *control, void *block, size_t size, PLACE)
{
	struct pool *pool = pool_of(control);

	if(block == NULL)
		return pool_malloc(control, size, ITS_PLACE);
	if(size == 0) {
		pool_free(control, block, ITS_PLACE);
		return NULL;
	}
	if(must_fail(pool->kind))
		return NULL;
	lock_pool(pool);
	block = change(pool, block, size, ITS_PLACE);
	unlock_pool(pool);
	return block;
}

static void *pool_reallocxf(void *control, void *block, size_t size, PLACE)
{
	void *changed = pool_realloc(control, block, size, ITS_PLACE);

	if(changed == NULL && size > 0)
		pool_free(control, block, ITS_PLACE);
	return changed;
}

static void *pool_resize(void *control, void *block, size_t size, PLACE)
{
	pool_free(control, block, ITS_PLACE);
	return pool_malloc(control, size, ITS_PLACE);
}

/* What a walk over the blocks finds: the truth that no book can falsify. */
static void walk(int kind, unsigned long *bytes, unsigned long *blocks)
{
	struct pool *pool = &pools[kind];
	char *block;

	*bytes = *blocks = 0;
	lock_pool(pool);
	for(block = pool->first + HEADER; block; block = after(pool, block))
		if(!is_free(block)) {
			*bytes += size_of(block);
			*blocks += 1;
		}
	unlock_pool(pool);
}

/* What the host itself keeps for memguard, as Kamailio would, for ever: blocks that are not leaks. */
static unsigned long kept[2];

static int keep(int kind, void *block)
{
	if(block == NULL)
		return -1;
	kept[kind]++;
	return 0;
}
