/* Run the golden stretches through the whole engine, from samples to a vote, and print the differences from the
   expected results and the instructions used.

   Each line is a word and numbers. The exit status is 0 only if all bits are as expected. */
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

static int32_t at_least(int32_t largest, int32_t a, int32_t b) {
    const int32_t difference = a < b ? b - a : a - b;
    return difference > largest ? difference : largest;
}

/* The largest difference of any entry of the mean token, in units in the last place, or of the embedding. */
static int32_t largest_difference(const golden_stretch *golden, const int16_t *embedding) {
    int32_t largest = 0, i;
#if CPEP_BANDS
    for (i = 0; i < CPEP_INPUTS; i++) {
        int32_t found, expected;
        memcpy(&found, engine.front_end.mean + i, sizeof found);
        memcpy(&expected, golden->mean + i, sizeof expected);
        largest = (found ^ expected) < 0 ? INT32_MAX : at_least(largest, found, expected);
    }
#endif
#if CPEP_LAYERS
    for (i = 0; i < CPEP_EMBEDDING_DEPTH; i++) largest = at_least(largest, embedding[i], golden->embedding[i]);
#else
    (void)embedding;
#endif
    return largest;
}

static int is_same(const cpep_vote *a, const cpep_vote *b) {
    return memcmp(a, b, sizeof *a) == 0; /* 32-bit numbers without gaps */
}

/* Check one stretch, print its lines, and return whether mean token, embedding and vote are right. */
static int check(int32_t number, const golden_stretch *golden) {
    int32_t i, difference, sample, token = 0, take, embed = 0, recognise;
    cpep_vote vote;
#if CPEP_LAYERS
    int16_t embedding[CPEP_EMBEDDING_DEPTH];
#else
    const int16_t *embedding = NULL;
#endif
    cpep_reset(&engine, golden->first_index);
    board_start_counting();
    for (i = 0; i < golden->n_samples; i++) cpep_push(&engine, golden->samples + i * CPEP_CHANNELS);
    sample = (int32_t)(board_instructions() / (uint32_t)golden->n_samples);
#if CPEP_BANDS
    board_start_counting();
    i = cpep_take_tokens(&engine);
    token = (int32_t)(board_instructions() / (uint32_t)(i > 0 ? i : 1));
#endif
    board_start_counting();
    cpep_take_window(&engine);
    take = (int32_t)board_instructions();
#if CPEP_LAYERS
    board_start_counting();
    cpep_embed(&engine, embedding);
    embed = (int32_t)board_instructions();
#endif
    difference = largest_difference(golden, embedding);
    cpep_take_window(&engine); /* again, because cpep_embed consumed it */
    board_start_counting();
    vote = cpep_recognise(&engine);
    recognise = (int32_t)board_instructions();
    if (CPEP_HEAD_GESTURES == 0 || CPEP_HEAD_EMBEDDING) recognise -= embed; /* without the encoder */
    write_line("golden", number, difference, vote.gesture);
    write_line("instructions", take, embed, recognise);
    write_line("sample_instructions", sample, token, 0);
    return difference == 0 && is_same(&vote, &golden->vote);
}

int main(void) {
    int32_t number, n_wrong = 0;
    for (number = 0; number < n_golden_stretches; number++) n_wrong += !check(number, &golden_stretches[number]);
    write_line("memory", (int32_t)sizeof engine, (int32_t)board_stack_bytes(), 0);
    write_line("done", n_golden_stretches, n_wrong, 0);
    return n_wrong != 0;
}
