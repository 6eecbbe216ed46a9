/* Start-up, text output and an instruction count for a bare Cortex-M with semihosting, under QEMU or a debugger.

   The count comes from SysTick. Under `qemu -icount shift=0` each instruction takes one nanosecond of the board's time,
   so ticks can be converted to instructions. On hardware SysTick counts cycles, so this file does not apply there. */
#include <stdint.h>
#include <string.h>

#include "board.h"

#define SYS_WRITE0 0x04u
#define SYS_EXIT 0x18u
#define STOPPED_WELL 0x20026u
#define STOPPED_WITH_ERROR 0x20023u

#define SYSTICK_CONTROL (*(volatile uint32_t *)0xe000e010u)
#define SYSTICK_RELOAD (*(volatile uint32_t *)0xe000e014u)
#define SYSTICK_VALUE (*(volatile uint32_t *)0xe000e018u)
#define COPROCESSOR_ACCESS (*(volatile uint32_t *)0xe000ed88u)
#define SYSTICK_WRAPPED (1u << 16)
#define SYSTICK_TICKS (1u << 24)
#define STACK_PAINT 0xc5c5c5c5u

extern uint32_t stack_bottom[], stack_top[], data_start[], data_end[], bss_start[], bss_end[];
extern const uint32_t data_load[];
int main(void);
void reset(void);
void fault(void);

static uint32_t semihost(uint32_t operation, uintptr_t argument) {
    register uint32_t r0 __asm__("r0") = operation;
    register uintptr_t r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

void board_write(const char *text) {
    semihost(SYS_WRITE0, (uintptr_t)text);
}

void board_start_counting(void) {
    SYSTICK_CONTROL = 0;
    SYSTICK_RELOAD = SYSTICK_TICKS - 1;
    SYSTICK_VALUE = 0;
    SYSTICK_CONTROL = 5; /* on, processor clock, no interrupt */
}

/* Exact to one tick. Only one wrap is detected, which is enough for a billion instructions at 16 MHz or above. */
uint32_t board_instructions(void) {
    uint32_t value = SYSTICK_VALUE; /* 0 until the first tick loads it */
    uint32_t ticks = value == 0 ? 0 : SYSTICK_TICKS - 1 - value;
    if (SYSTICK_CONTROL & SYSTICK_WRAPPED) ticks += SYSTICK_TICKS;
    return (uint32_t)((uint64_t)ticks * 1000u / BOARD_CLOCK_MHZ);
}

uint32_t board_stack_bytes(void) {
    const uint32_t *at = stack_bottom;
    while (at < stack_top && *at == STACK_PAINT) at++;
    return (uint32_t)((uintptr_t)stack_top - (uintptr_t)at);
}

void reset(void) {
    volatile uint32_t *at; /* volatile, so that the compiler does not call memset, which needs the stack */
    uint32_t *here;
    COPROCESSOR_ACCESS |= 0xfu << 20; /* enable the floating-point and vector unit */
    __asm__ volatile("dsb\n isb" ::: "memory");
    __asm__ volatile("mov %0, sp" : "=r"(here));
    for (at = stack_bottom; at < here - 16; at++) *at = STACK_PAINT; /* not this function's own stack */
    memcpy(data_start, data_load, (uintptr_t)data_end - (uintptr_t)data_start);
    memset(bss_start, 0, (uintptr_t)bss_end - (uintptr_t)bss_start);
    semihost(SYS_EXIT, main() == 0 ? STOPPED_WELL : STOPPED_WITH_ERROR);
    for (;;) continue;
}

void fault(void) {
    board_write("fault\n");
    semihost(SYS_EXIT, STOPPED_WITH_ERROR);
    for (;;) continue;
}

typedef union {
    void (*handler)(void);
    uint32_t *stack;
} vector;

__attribute__((section(".vectors"), used)) static const vector vectors[16] = {
    {.stack = stack_top}, {reset}, {fault}, {fault}, {fault}, {fault}, {fault}, {fault},
    {fault},              {fault}, {fault}, {fault}, {fault}, {fault}, {fault}, {fault},
};
