/* core/vm/pattern.h — Lua's patterns, matched so that a hostile one can be stopped. Used by vm_string.c only.
 *
 * What a pattern means, what it refuses and in which words are LuaJIT 2.1's (spec/unit/vm/pattern_spec.lua compares the
 * two), but for a NUL, which ends LuaJIT's patterns and is a character like others here.
 *
 * Nothing recurses: what can still be tried otherwise stands in an array, so that the C stack a match takes is the same
 * for every pattern. All loops count their work, and every VM_PATTERN_POLL units ask mp_vm_poll. */
#ifndef MP_VM_PATTERN_H
#define MP_VM_PATTERN_H
#include "core/vm/vm.h"

enum {
    VM_PATTERN_CAPTURES = 32,
    VM_PATTERN_DEPTH = 200, /* repetitions and ends of captures on the way to one match; LuaJIT's limit */
    VM_PATTERN_POLL = 4096, /* units of work: some 20 µs */
};

struct vm_pattern {
    lua_State *L; /* errors are raised there */
    const char *text, *text_end, *pattern, *pattern_end;
    uint32_t work; /* since the last poll */
    uint32_t open; /* a bit for each capture that was begun and is not closed */
    uint32_t n_captures;
    struct {
        const char *start, *end; /* end NULL: a position */
    } capture[VM_PATTERN_CAPTURES];
};

/* Strings as Lua keeps them: a NUL behind each. The pattern is without the '^' that anchors it. */
void vm_pattern_init(struct vm_pattern *m, lua_State *L, const char *text, size_t n, const char *pattern,
                     size_t pattern_n);
/* The end of the match that begins at `at`, a place in the text or its end, and the captures in m; NULL: none does.
 * Raises on a malformed pattern, as soon as the matching gets there, and when it was killed. */
const char *vm_pattern_match(struct vm_pattern *m, const char *at);
/* Counts work; raises when the script is to stop. For loops over matches and replacements. */
void vm_pattern_work(struct vm_pattern *m, uint32_t units);

#endif
