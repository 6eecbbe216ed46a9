/* Products of rows. kernels_mve.c includes this file twice, for 8-bit and for 16-bit rows of a. */

/* Three rows by two: five loads serve six products, and the registers hold exactly six sums and five pointers. */
static void NAME(three_by_two)(const NUMBER *x, int32_t x_stride, const int8_t *w, int32_t w_stride, int32_t depth,
                               int32_t *products, int32_t n) {
    const NUMBER *x0 = x, *x1 = x + x_stride, *x2 = x1 + x_stride;
    const int8_t *w0 = w, *w1 = w + w_stride;
    int32_t s00 = 0, s01 = 0, s10 = 0, s11 = 0, s20 = 0, s21 = 0, d;
    for (d = depth / LANES; d > 0; d--) {
        VECTOR v0 = LOAD_W(w0), v1 = LOAD_W(w1), u0 = LOAD_X(x0), u1 = LOAD_X(x1), u2 = LOAD_X(x2);
        s00 = MULTIPLY_ADD(s00, u0, v0);
        s01 = MULTIPLY_ADD(s01, u0, v1);
        s10 = MULTIPLY_ADD(s10, u1, v0);
        s11 = MULTIPLY_ADD(s11, u1, v1);
        s20 = MULTIPLY_ADD(s20, u2, v0);
        s21 = MULTIPLY_ADD(s21, u2, v1);
        x0 += LANES, x1 += LANES, x2 += LANES, w0 += LANES, w1 += LANES;
    }
    products[0] = s00, products[1] = s01;
    products[n] = s10, products[n + 1] = s11;
    products[2 * n] = s20, products[2 * n + 1] = s21;
}

static void NAME(one_by_four)(const NUMBER *x, const int8_t *w, int32_t w_stride, int32_t depth, int32_t *products) {
    const int8_t *w0 = w, *w1 = w + w_stride, *w2 = w1 + w_stride, *w3 = w2 + w_stride;
    int32_t s0 = 0, s1 = 0, s2 = 0, s3 = 0, d;
    for (d = depth / LANES; d > 0; d--) {
        VECTOR u = LOAD_X(x);
        s0 = MULTIPLY_ADD(s0, u, LOAD_W(w0));
        s1 = MULTIPLY_ADD(s1, u, LOAD_W(w1));
        s2 = MULTIPLY_ADD(s2, u, LOAD_W(w2));
        s3 = MULTIPLY_ADD(s3, u, LOAD_W(w3));
        x += LANES, w0 += LANES, w1 += LANES, w2 += LANES, w3 += LANES;
    }
    products[0] = s0, products[1] = s1, products[2] = s2, products[3] = s3;
}

void NAME(cpep_multiply)(ROWS a, cpep_rows8 b, int32_t depth, int32_t *products) {
    int32_t i, j;
    for (i = 0; i + 3 <= a.n; i += 3) {
        for (j = 0; j < b.n; j += 2) {
            NAME(three_by_two)(a.first + i * a.stride, a.stride, b.first + j * b.stride, b.stride, depth,
                               products + i * b.n + j, b.n);
        }
    }
    for (; i < a.n; i++) {
        for (j = 0; j < b.n; j += 4) {
            NAME(one_by_four)(a.first + i * a.stride, b.first + j * b.stride, b.stride, depth, products + i * b.n + j);
        }
    }
}

#undef NAME
#undef ROWS
#undef NUMBER
#undef VECTOR
#undef LANES
#undef LOAD_X
#undef LOAD_W
#undef MULTIPLY_ADD
