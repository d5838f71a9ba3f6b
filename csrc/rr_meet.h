/*
 * rr_meet.h - where the threads of one call wait for each other. Only calls that say so need this: ranges of all others
 * do not depend on each other.
 *
 * Notes : a wait is a few hundred nanoseconds where every thread has a core, so threads spin; after some microseconds
 *         they offer their core to others at each turn.
 */
#ifndef RR_MEET_H
#define RR_MEET_H

#include <stddef.h>
#include <stdint.h>

#include "rr_config.h"

#if defined(_WIN32)
#ifndef WIN32_LEAN_AND_MEAN
#define WIN32_LEAN_AND_MEAN /* windows.h defines fewer words of common English */
#endif
#include <windows.h>
#define RR_YIELD() SwitchToThread()
#else
#include <sched.h>
#define RR_YIELD() sched_yield()
#endif

#if defined(__GNUC__)
#define RR_ARRIVE(count) __atomic_add_fetch(count, 1, __ATOMIC_ACQ_REL)
#define RR_READ(number) __atomic_load_n(number, __ATOMIC_ACQUIRE)
#define RR_WRITE(number, value) __atomic_store_n(number, value, __ATOMIC_RELEASE)
#else
#define RR_ARRIVE(count) InterlockedIncrement((volatile LONG *)(count))
#define RR_READ(number) InterlockedCompareExchange((volatile LONG *)(number), 0, 0)
#define RR_WRITE(number, value) InterlockedExchange((volatile LONG *)(number), value)
#endif

#if defined(_WIN32)
#define RR_PAUSE() YieldProcessor()
#elif defined(__x86_64__) || defined(__i386__)
#define RR_PAUSE() __builtin_ia32_pause()
#else
#define RR_PAUSE() ((void)0)
#endif

enum {
    RR_SPINS = 2000, /* before a core is offered */
    RR_MEETING = 48  /* numbers of a meeting: three that lie in different lines of memory */
};

/*
 * Return 0 when `threads` threads are here, or 1 when the meeting is called off: its number 32 is not 0, since a thread
 * will never come. `meeting`: RR_MEETING zeros at first, of these threads alone.
 */
RR_INLINE int rr_meet(int32_t *meeting, ptrdiff_t threads)
{
    int32_t *arrived = meeting, *turn = meeting + 16, *off = meeting + 32;
    if (threads == 1) return 0;
    const int32_t now = RR_READ(turn);
    if (RR_ARRIVE(arrived) == threads) {
        RR_WRITE(arrived, 0);
        RR_WRITE(turn, now + 1);
        return 0;
    }
    for (int spins = 0; RR_READ(turn) == now;) {
        if (spins < RR_SPINS) {
            spins++;
            RR_PAUSE();
        } else if (RR_READ(off)) {
            return 1;
        } else {
            RR_YIELD();
        }
    }
    return 0;
}

#endif
