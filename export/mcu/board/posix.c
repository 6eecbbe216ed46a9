#include <stdio.h>

#include "board.h"

void board_write(const char *text) {
    fputs(text, stdout);
}

void board_start_counting(void) {
}

uint32_t board_instructions(void) {
    return 0;
}

uint32_t board_stack_bytes(void) {
    return 0;
}
