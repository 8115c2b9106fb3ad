/*
 * A clock that runs faster, for a replay: preloaded into a program it makes each of its seconds FASTCLOCK times
 * shorter, for whoever asks the time, sleeps, waits or sets a timer. All processes of the program have one clock.
 * Forbidden here: being part of anything that is installed.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL

static long long speed = 1;
/* Where both clocks were when the program began: they run on from there. */
static long long began_real, began_monotonic;

static long long kernel(clockid_t clock)
{
	struct timespec t = {0, 0};
	syscall(SYS_clock_gettime, clock, &t);
	return t.tv_sec * SECOND + t.tv_nsec;
}

__attribute__((constructor)) static void begin(void)
{
	const char *text = getenv("FASTCLOCK");
	speed = text && atoi(text) > 0 ? atoi(text) : 1;
	began_real = kernel(CLOCK_REALTIME);
	began_monotonic = kernel(CLOCK_MONOTONIC);
}

static struct timespec of(long long nanoseconds)
{
	struct timespec t = {nanoseconds / SECOND, nanoseconds % SECOND};
	return t;
}

/* A span of the fast clock, in the kernel's; never nothing when it was something. */
static struct timespec shorter(long long nanoseconds)
{
	return of(nanoseconds > 0 && nanoseconds < speed ? 1 : nanoseconds / speed);
}

int clock_gettime(clockid_t clock, struct timespec *t)
{
	long long passed = (kernel(CLOCK_MONOTONIC) - began_monotonic) * speed;
	switch(clock) {
		case CLOCK_REALTIME:
		case CLOCK_REALTIME_COARSE:
			*t = of(began_real + passed);
			return 0;
		case CLOCK_MONOTONIC:
		case CLOCK_MONOTONIC_COARSE:
		case CLOCK_MONOTONIC_RAW:
		case CLOCK_BOOTTIME:
			*t = of(began_monotonic + passed);
			return 0;
		default: /* CPU time is what it is */
			return (int)syscall(SYS_clock_gettime, clock, t);
	}
}

int gettimeofday(struct timeval *restrict t, void *restrict zone)
{
	struct timespec now;
	(void)zone;
	clock_gettime(CLOCK_REALTIME, &now);
	t->tv_sec = now.tv_sec;
	t->tv_usec = now.tv_nsec / 1000;
	return 0;
}

time_t time(time_t *t)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	if(t)
		*t = now.tv_sec;
	return now.tv_sec;
}

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *wanted, struct timespec *left)
{
	struct timespec now = {0, 0}, span;
	(void)left;
	if(flags & TIMER_ABSTIME)
		clock_gettime(clock, &now);
	long long wait = (wanted->tv_sec - now.tv_sec) * SECOND + wanted->tv_nsec - now.tv_nsec;
	if(wait <= 0)
		return 0;
	span = shorter(wait);
	return (int)syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &span, NULL) ? 4 /* EINTR */ : 0;
}

int nanosleep(const struct timespec *wanted, struct timespec *left)
{
	return clock_nanosleep(CLOCK_MONOTONIC, 0, wanted, left) ? -1 : 0;
}

int usleep(useconds_t microseconds)
{
	struct timespec span = of(microseconds * 1000LL);
	return nanosleep(&span, NULL);
}

unsigned int sleep(unsigned int seconds)
{
	struct timespec span = of(seconds * SECOND);
	nanosleep(&span, NULL);
	return 0;
}

int poll(struct pollfd *fds, nfds_t count, int milliseconds)
{
	struct timespec span = shorter(milliseconds * 1000000LL);
	return (int)syscall(SYS_ppoll, fds, count, milliseconds < 0 ? NULL : &span, NULL, 0);
}

int select(int count, fd_set *restrict r, fd_set *restrict w, fd_set *restrict x, struct timeval *restrict wanted)
{
	struct timespec span;
	if(wanted)
		span = shorter(wanted->tv_sec * SECOND + wanted->tv_usec * 1000LL);
	return (int)syscall(SYS_pselect6, count, r, w, x, wanted ? &span : NULL, NULL);
}

int epoll_wait(int fd, struct epoll_event *events, int most, int milliseconds)
{
	int fast = milliseconds > 0 && milliseconds < speed ? 1 : (int)(milliseconds / speed);
	return (int)syscall(SYS_epoll_pwait, fd, events, most, milliseconds < 0 ? -1 : fast, NULL, 0);
}

int setitimer(__itimer_which_t which, const struct itimerval *restrict wanted, struct itimerval *restrict old)
{
	struct itimerval fast = *wanted;
	const struct timeval *from[2] = {&wanted->it_interval, &wanted->it_value};
	struct timeval *to[2] = {&fast.it_interval, &fast.it_value};
	if(which == ITIMER_REAL) {
		for(int i = 0; i < 2; i++) {
			long long us = (from[i]->tv_sec * 1000000LL + from[i]->tv_usec);
			us = us > 0 && us < speed ? 1 : us / speed;
			to[i]->tv_sec = us / 1000000;
			to[i]->tv_usec = us % 1000000;
		}
	}
	return (int)syscall(SYS_setitimer, which, &fast, old);
}
