/* A QEMU plugin that counts the instructions that a program executes, and prints the number to stderr at its end.
 *
 *   gcc -shared -fPIC -O2 -o count_instructions.so count_instructions.c
 *   qemu-aarch64 -cpu cortex-a72 -plugin ./count_instructions.so PROGRAM ...
 *
 * Times under emulation are meaningless, so programs are compared by instructions. These are not cycles.
 * The used part of qemu-plugin.h (version 1) is declared here, because distributions do not ship that header.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;

enum { INLINE_ADD = 0 };

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id, void (*)(qemu_plugin_id_t, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, int operation, void *target, uint64_t value);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t id, void (*)(qemu_plugin_id_t, void *), void *);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);

#define SHOWN __attribute__((visibility("default")))

SHOWN int qemu_plugin_version = 1;
static uint64_t n_instructions;

static void count_block(qemu_plugin_id_t id, struct qemu_plugin_tb *block) {
  (void)id;
  qemu_plugin_register_vcpu_tb_exec_inline(block, INLINE_ADD, &n_instructions, qemu_plugin_tb_n_insns(block));
}

static void say(qemu_plugin_id_t id, void *unused) {
  (void)id;
  (void)unused;
  fprintf(stderr, "instructions %llu\n", (unsigned long long)n_instructions);
}

SHOWN int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int argc, char **argv) {
  (void)info;
  (void)argc;
  (void)argv;
  qemu_plugin_register_vcpu_tb_trans_cb(id, count_block);
  qemu_plugin_register_atexit_cb(id, say, NULL);
  return 0;
}
