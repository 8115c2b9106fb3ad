/*
 * Moments that a test chooses: another process takes a block of shm after the n-th instruction of a command, and those
 * that churn rest when they are told to.
 * Forbidden here: waiting for time; taking anything in the process that is looked at.
 */
#include <sched.h>
#include <ucontext.h>

static struct moments {
	volatile long asked, done; /* the partner's work, in order */
	volatile int rest;         /* who churns rests */
	int resting;               /* so many do */
} *moments;

static long step_at, steps; /* trap there; instructions so far */

/* Another process, which does nothing but take one block each time that it is asked to. */
static void partner(void)
{
	for(;;) {
		while(moments->asked == moments->done)
			sched_yield();
		shm_malloc(1000);
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		moments->done++;
	}
}

static void on_trap(int signal, siginfo_t *info, void *context)
{
	if(++steps != step_at)
		return;
	((ucontext_t *)context)->uc_mcontext.gregs[REG_EFL] &= ~0x100L; /* no more traps */
	moments->asked++;
	while(moments->asked != moments->done)
		sched_yield();
}

/* From here on each instruction traps; below the red zone, where the flags may be pushed. */
static void trap_each(void)
{
	struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO};

	steps = 0;
	sigaction(SIGTRAP, &action, NULL);
	__asm__ volatile("lea -128(%%rsp), %%rsp\n pushfq\n orq $0x100, (%%rsp)\n popfq\n lea 128(%%rsp), %%rsp" ::: "memory", "cc");
}

static void trap_no_more(void)
{
	__asm__ volatile("lea -128(%%rsp), %%rsp\n pushfq\n andq $~0x100, (%%rsp)\n popfq\n lea 128(%%rsp), %%rsp" ::: "memory", "cc");
}

/* Where nothing is held back. */
static void rest_if_told(void)
{
	if(!moments->rest)
		return;
	__atomic_add_fetch(&moments->resting, 1, __ATOMIC_SEQ_CST);
	while(moments->rest)
		sched_yield();
	__atomic_sub_fetch(&moments->resting, 1, __ATOMIC_SEQ_CST);
}

/* Until so many rest; 0: they go on. */
static void tell_to_rest(int count)
{
	moments->rest = count > 0;
	while(__atomic_load_n(&moments->resting, __ATOMIC_SEQ_CST) != count)
		sched_yield();
}
