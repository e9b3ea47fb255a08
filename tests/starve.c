/* Let allocations of Python's fail on one thread, from a given one on. */

#include <Python.h>

static PyMemAllocatorEx real[3];
static _Thread_local long before = -1, failures, failed;

/* Let `count` allocations fail after `start` more have succeeded. */
void starve(long start, long count)
{
    before = start;
    failures = count;
    failed = 0;
}

/* End that, and return how many have failed. */
long feed(void)
{
    before = -1;
    return failed;
}

static int fails(void)
{
    if (before < 0 || failures == 0 || (before > 0 && before--))
        return 0;
    failures--;
    failed++;
    return 1;
}

static void *starved_malloc(void *allocator, size_t size)
{
    PyMemAllocatorEx *it = allocator;
    return fails() ? NULL : it->malloc(it->ctx, size);
}

static void *starved_calloc(void *allocator, size_t count, size_t size)
{
    PyMemAllocatorEx *it = allocator;
    return fails() ? NULL : it->calloc(it->ctx, count, size);
}

static void *starved_realloc(void *allocator, void *memory, size_t size)
{
    PyMemAllocatorEx *it = allocator;
    return fails() ? NULL : it->realloc(it->ctx, memory, size);
}

static void starved_free(void *allocator, void *memory)
{
    PyMemAllocatorEx *it = allocator;
    it->free(it->ctx, memory);
}

void install(void)
{
    PyMemAllocatorDomain domain;
    for (domain = PYMEM_DOMAIN_RAW; domain <= PYMEM_DOMAIN_OBJ; domain++) {
        PyMemAllocatorEx starved = {&real[domain], starved_malloc, starved_calloc,
                                    starved_realloc, starved_free};
        PyMem_GetAllocator(domain, &real[domain]);
        PyMem_SetAllocator(domain, &starved);
    }
}
