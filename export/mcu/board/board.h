/* What check.c needs of the machine it runs on. */
#ifndef CPEP_BOARD_H
#define CPEP_BOARD_H

#include <stdint.h>

void board_write(const char *text);

/* Instructions run since the last call of board_start_counting; 0 where nothing counts them. */
void board_start_counting(void);
uint32_t board_instructions(void);

/* Bytes of stack touched since the start; 0 where nobody knows. */
uint32_t board_stack_bytes(void);

#endif
