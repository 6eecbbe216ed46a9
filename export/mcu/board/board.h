/* The functions that check.c needs from the machine it runs on. */
#ifndef CPEP_BOARD_H
#define CPEP_BOARD_H

#include <stdint.h>

void board_write(const char *text);

/* Instructions run since the last call of board_start_counting; 0 if they cannot be counted. */
void board_start_counting(void);
uint32_t board_instructions(void);

/* Bytes of stack used since the start; 0 if unknown. */
uint32_t board_stack_bytes(void);

#endif
