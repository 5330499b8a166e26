/* core/base/proctitle.h — what `ps` shows of a process: "moonpool: engine cpu". Used by the three roles. */
#ifndef MP_PROCTITLE_H
#define MP_PROCTITLE_H

/* Once, at the start of main, before threads: remembers where the arguments lie. The environment is moved away from behind
 * them; argv's strings stay readable until the first mp_proctitle_set. */
void mp_proctitle_init(int argc, char **argv);
/* Overwrites the command line, and the calling thread's name with its first 15 bytes. Cut to the room there is. Without init only
 * the name is set. Whoever still needs argv has copied it. */
void mp_proctitle_set(const char *title);

#endif
