/* Run the golden stretches through the whole way from samples to a vote, and say what came out and what it took.

   Each line is a word and numbers; the exit status is 0 only if every bit is as it must be. */
#include <string.h>

#include "board.h"
#include "cpep.h"
#include "golden.h"

static cpep engine;

static void write_number(int32_t number) {
    char digits[12];
    uint32_t rest = number < 0 ? 0u - (uint32_t)number : (uint32_t)number;
    int at = (int)sizeof digits - 1;
    digits[at] = 0;
    do {
        digits[--at] = (char)('0' + rest % 10);
        rest /= 10;
    } while (rest != 0);
    if (number < 0) digits[--at] = '-';
    board_write(" ");
    board_write(digits + at);
}

static void write_line(const char *word, int32_t a, int32_t b, int32_t c) {
    board_write(word);
    write_number(a);
    write_number(b);
    write_number(c);
    board_write("\n");
}

static int32_t largest_difference(const int16_t *a, const int16_t *b) {
    int32_t largest = 0, i;
    for (i = 0; i < CPEP_EMBEDDING_DEPTH; i++) {
        int32_t difference = a[i] < b[i] ? b[i] - a[i] : a[i] - b[i];
        if (difference > largest) largest = difference;
    }
    return largest;
}

static int is_same(cpep_vote a, cpep_vote b) {
    return a.gesture == b.gesture && a.n_votes == b.n_votes && a.n_neighbours == b.n_neighbours &&
           a.similarity == b.similarity;
}

/* "golden number difference gesture", and whether both are right. */
static int check(int32_t number, const golden_stretch *golden) {
    int16_t embedding[CPEP_EMBEDDING_DEPTH];
    cpep_vote vote;
    int32_t i, difference, instructions[4];
    cpep_reset(&engine);
    board_start_counting();
    for (i = 0; i < golden->n_samples; i++) cpep_push(&engine, golden->samples + i * CPEP_CHANNELS);
    instructions[0] = (int32_t)(board_instructions() / (uint32_t)golden->n_samples);
    board_start_counting();
    cpep_take_window(&engine);
    instructions[1] = (int32_t)board_instructions();
    board_start_counting();
    cpep_embed(&engine, embedding);
    instructions[2] = (int32_t)board_instructions();
    board_start_counting();
    vote = cpep_vote_of(embedding);
    instructions[3] = (int32_t)board_instructions();
    difference = largest_difference(embedding, golden->embedding);
    write_line("golden", number, difference, vote.gesture);
    write_line("instructions", instructions[1], instructions[2], instructions[3]);
    write_line("sample_instructions", instructions[0], 0, 0);
    return difference == 0 && is_same(vote, golden->vote);
}

int main(void) {
    int32_t number, n_wrong = 0;
    for (number = 0; number < n_golden_stretches; number++) n_wrong += !check(number, &golden_stretches[number]);
    write_line("memory", (int32_t)sizeof engine, (int32_t)board_stack_bytes(), 0);
    write_line("done", n_golden_stretches, n_wrong, 0);
    return n_wrong != 0;
}
