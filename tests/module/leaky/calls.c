/* LD_PRELOAD: counts by process what memguard.so asks of libc: heap, and system calls. Told by the return address, so
 * that what Kamailio and its other modules call does not count; heap is counted a second time whoever calls, as libc may
 * ask itself for what it was asked. The counts stand in the file MEMGUARD_CALLS.
 * Forbidden here: allocating, changing what the calls do, headers that declare them. */
#define _GNU_SOURCE
#include <link.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

enum { HEAP, SYSTEM, ANY_HEAP, KINDS };

struct counts {
	_Atomic uint64_t kinds[KINDS];
};
/* A place for each process id that Linux gives by default (pid_max), modulo. */
#define PROCESSES 32768

static struct counts *all;
static uintptr_t begin, end;
static int own;

static long kernel(long n, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
	long got;
	__asm__ volatile("syscall" : "=a"(got) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
					 : "rcx", "r11", "memory");
	return got;
}

static int is_memguard(const char *name)
{
	const char word[] = "memguard.so";
	for(; name && *name; name++) {
		size_t i = 0;
		while(word[i] && name[i] == word[i])
			i++;
		if(!word[i])
			return 1;
	}
	return 0;
}

static int find(struct dl_phdr_info *info, size_t size, void *unused)
{
	(void)size, (void)unused;
	if(!is_memguard(info->dlpi_name))
		return 0;
	uintptr_t low = UINTPTR_MAX, high = 0;
	for(int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *p = &info->dlpi_phdr[i];
		uintptr_t first = info->dlpi_addr + p->p_vaddr, last = first + p->p_memsz;
		if(p->p_type != PT_LOAD)
			continue;
		low = first < low ? first : low;
		high = last > high ? last : high;
	}
	begin = low;
	end = high;
	return 1;
}

/* Before every fork: by then memguard.so is loaded. */
static void before_fork(void)
{
	if(all && !end)
		dl_iterate_phdr(find, NULL);
}

static void in_child(void)
{
	own = 0;
}

extern char *getenv(const char *);
extern int pthread_atfork(void (*)(void), void (*)(void), void (*)(void));

static __attribute__((constructor)) void start(void)
{
	const char *file = getenv("MEMGUARD_CALLS");
	long fd = file ? kernel(2 /* open */, (long)file, 2 /* O_RDWR */, 0, 0, 0, 0) : -1;
	if(fd < 0)
		return;
	long at = kernel(9 /* mmap */, 0, PROCESSES * sizeof(struct counts), 3, 1 /* MAP_SHARED */, fd, 0);
	kernel(3 /* close */, fd, 0, 0, 0, 0, 0);
	if(at > 0 || at < -4096)
		all = (struct counts *)at;
	pthread_atfork(before_fork, NULL, in_child);
}

static void add(int kind)
{
	if(!own)
		own = (int)kernel(39 /* getpid */, 0, 0, 0, 0, 0, 0);
	all[own % PROCESSES].kinds[kind]++;
}

static void count(void *from, int kind)
{
	uintptr_t at = (uintptr_t)from;
	if(all && kind == HEAP)
		add(ANY_HEAP);
	if(at >= begin && at < end)
		add(kind);
}

#define CALLER __builtin_return_address(0)

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

void *malloc(size_t size)
{
	count(CALLER, HEAP);
	return __libc_malloc(size);
}
void *calloc(size_t n, size_t size)
{
	count(CALLER, HEAP);
	return __libc_calloc(n, size);
}
void *realloc(void *old, size_t size)
{
	count(CALLER, HEAP);
	return __libc_realloc(old, size);
}
void free(void *old)
{
	count(CALLER, HEAP);
	__libc_free(old);
}
int posix_memalign(void **to, size_t align, size_t size)
{
	count(CALLER, HEAP);
	*to = __libc_memalign(align, size);
	return *to ? 0 : 12;
}

int dladdr(const void *address, Dl_info *info)
{
	static int (*real)(const void *, Dl_info *);
	if(!real)
		real = (int (*)(const void *, Dl_info *))dlsym(RTLD_NEXT, "dladdr");
	count(CALLER, SYSTEM);
	return real(address, info);
}
int dl_iterate_phdr(int (*each)(struct dl_phdr_info *, size_t, void *), void *closure)
{
	static int (*real)(int (*)(struct dl_phdr_info *, size_t, void *), void *);
	if(!real)
		real = (int (*)(int (*)(struct dl_phdr_info *, size_t, void *), void *))dlsym(RTLD_NEXT, "dl_iterate_phdr");
	count(CALLER, SYSTEM);
	return real(each, closure);
}
extern int vfprintf(void *, const char *, va_list);
int fprintf(void *to, const char *format, ...)
{
	va_list list;
	count(CALLER, SYSTEM);
	va_start(list, format);
	int got = vfprintf(to, format, list);
	va_end(list);
	return got;
}

/* Six registers in, one out: right for every call whose arguments are numbers and pointers. */
#define PASS(name)                                                           \
	long name(long a, long b, long c, long d, long e, long f)                \
	{                                                                        \
		static long (*real)(long, long, long, long, long, long);             \
		if(!real)                                                            \
			real = (long (*)(long, long, long, long, long, long))dlsym(RTLD_NEXT, #name); \
		count(CALLER, SYSTEM);                                               \
		return real(a, b, c, d, e, f);                                       \
	}
/* More than six: futex(2) of Rust's locks comes this way. */
long syscall(long n, long a, long b, long c, long d, long e, long f)
{
	static long (*real)(long, long, long, long, long, long, long);
	if(!real)
		real = (long (*)(long, long, long, long, long, long, long))dlsym(RTLD_NEXT, "syscall");
	count(CALLER, SYSTEM);
	return real(n, a, b, c, d, e, f);
}
PASS(read)
PASS(write)
PASS(writev)
PASS(pread64)
PASS(pwrite64)
PASS(send)
PASS(sendto)
PASS(sendmsg)
PASS(recv)
PASS(poll)
PASS(socket)
PASS(open64)
PASS(close)
PASS(access)
PASS(stat64)
PASS(fstat64)
PASS(statx)
PASS(lseek64)
PASS(ioctl)
PASS(flock)
PASS(kill)
PASS(getpid)
PASS(getppid)
PASS(gettid)
PASS(geteuid)
PASS(getrandom)
PASS(mmap)
PASS(mmap64)
PASS(munmap)
PASS(madvise)
PASS(clock_nanosleep)
PASS(sched_yield)
PASS(pthread_mutex_lock)
PASS(pthread_mutex_trylock)
PASS(pthread_rwlock_rdlock)
PASS(pthread_rwlock_wrlock)
PASS(sem_wait)
PASS(accept4)
PASS(bind)
PASS(listen)
PASS(getsockname)
PASS(setsockopt)
PASS(shutdown)
PASS(recvfrom)
PASS(openat64)
PASS(fdopendir)
PASS(readdir64)
PASS(closedir)
PASS(dirfd)
PASS(fchmod)
PASS(fchown)
PASS(lstat64)
PASS(ftruncate64)
PASS(posix_fallocate)
PASS(mkdir)
PASS(rename)
PASS(unlink)
PASS(unlinkat)
PASS(readlink)
PASS(realpath)
PASS(getcwd)
PASS(getrlimit)
PASS(prctl)
PASS(fork)
PASS(waitpid)
PASS(nanosleep)
PASS(sigaction)
PASS(sigtimedwait)
PASS(signal)
PASS(pthread_sigmask)
PASS(pthread_key_create)
PASS(pthread_key_delete)
PASS(pthread_setspecific)
PASS(__cxa_thread_atexit_impl)
PASS(__register_atfork)
