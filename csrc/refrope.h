/*
 * refrope.h - prototypes of every kernel. cffi reads this file too (lines starting with # left out), so it holds
 * plain C declarations only. What each function does stands above its body.
 *
 * Strides are in elements, for the axes batch, head and row; features lie next to each other.
 * Slice s is head s % heads of batch s / heads. Return value: 0 done, 1 bad size (nothing written).
 */
#ifndef REFROPE_H
#define REFROPE_H

#include <stddef.h>
#include <stdint.h>

/* rotary */
int rr_rotate_f32(const float *x, const ptrdiff_t *x_strides, float *y, const ptrdiff_t *y_strides,
                  const float *cos_t, const float *sin_t, ptrdiff_t heads, ptrdiff_t rows, ptrdiff_t features,
                  ptrdiff_t start, ptrdiff_t pairs, int interleaved, int transpose, ptrdiff_t first, ptrdiff_t last);
int rr_rotate_f64(const double *x, const ptrdiff_t *x_strides, double *y, const ptrdiff_t *y_strides,
                  const double *cos_t, const double *sin_t, ptrdiff_t heads, ptrdiff_t rows, ptrdiff_t features,
                  ptrdiff_t start, ptrdiff_t pairs, int interleaved, int transpose, ptrdiff_t first, ptrdiff_t last);
int rr_rotate_periodic_f32(const float *x, const ptrdiff_t *x_strides, float *y, const ptrdiff_t *y_strides,
                               const float *cos_p, const float *sin_p, const int64_t *starts, const int64_t *periods,
                               const int64_t *positions, ptrdiff_t batches, ptrdiff_t heads, ptrdiff_t features,
                               ptrdiff_t start, ptrdiff_t pairs, int interleaved, int transpose, ptrdiff_t first,
                               ptrdiff_t last);
int rr_rotate_periodic_f64(const double *x, const ptrdiff_t *x_strides, double *y, const ptrdiff_t *y_strides,
                               const double *cos_p, const double *sin_p, const int64_t *starts, const int64_t *periods,
                               const int64_t *positions, ptrdiff_t batches, ptrdiff_t heads, ptrdiff_t features,
                               ptrdiff_t start, ptrdiff_t pairs, int interleaved, int transpose, ptrdiff_t first,
                               ptrdiff_t last);

/* attention */
ptrdiff_t rr_attention_scratch(ptrdiff_t n_q, ptrdiff_t d, int backward);
int rr_attention_forward_f32(const float *q, const ptrdiff_t *q_strides, const float *k, const ptrdiff_t *k_strides,
                             const float *v, const ptrdiff_t *v_strides, const float *bias,
                             const ptrdiff_t *bias_strides, float *out, const ptrdiff_t *out_strides, float *lse,
                             float *scratch, ptrdiff_t heads, ptrdiff_t kv_heads, ptrdiff_t n_q, ptrdiff_t n_k,
                             ptrdiff_t d, double scale, int causal, ptrdiff_t window, int add,
                             uint32_t dropout_threshold, uint64_t seed, uint32_t first_slice, ptrdiff_t first,
                             ptrdiff_t last);
int rr_attention_forward_f64(const double *q, const ptrdiff_t *q_strides, const double *k, const ptrdiff_t *k_strides,
                             const double *v, const ptrdiff_t *v_strides, const double *bias,
                             const ptrdiff_t *bias_strides, double *out, const ptrdiff_t *out_strides, double *lse,
                             double *scratch, ptrdiff_t heads, ptrdiff_t kv_heads, ptrdiff_t n_q, ptrdiff_t n_k,
                             ptrdiff_t d, double scale, int causal, ptrdiff_t window, int add,
                             uint32_t dropout_threshold, uint64_t seed, uint32_t first_slice, ptrdiff_t first,
                             ptrdiff_t last);
int rr_attention_backward_f32(const float *q, const ptrdiff_t *q_strides, const float *k, const ptrdiff_t *k_strides,
                              const float *v, const ptrdiff_t *v_strides, const float *bias,
                              const ptrdiff_t *bias_strides, const float *dout, const ptrdiff_t *dout_strides,
                              const float *out, const ptrdiff_t *out_strides, const float *lse, float *dq,
                              const ptrdiff_t *dq_strides, float *dk, const ptrdiff_t *dk_strides, float *dv,
                              const ptrdiff_t *dv_strides, float *dbias, const ptrdiff_t *dbias_strides, float *scratch,
                              ptrdiff_t heads, ptrdiff_t kv_heads, ptrdiff_t n_q, ptrdiff_t n_k, ptrdiff_t d,
                              double scale, int causal, ptrdiff_t window, int add, uint32_t dropout_threshold,
                              uint64_t seed, uint32_t first_slice, ptrdiff_t first, ptrdiff_t last);
int rr_attention_backward_f64(const double *q, const ptrdiff_t *q_strides, const double *k, const ptrdiff_t *k_strides,
                              const double *v, const ptrdiff_t *v_strides, const double *bias,
                              const ptrdiff_t *bias_strides, const double *dout, const ptrdiff_t *dout_strides,
                              const double *out, const ptrdiff_t *out_strides, const double *lse, double *dq,
                              const ptrdiff_t *dq_strides, double *dk, const ptrdiff_t *dk_strides, double *dv,
                              const ptrdiff_t *dv_strides, double *dbias, const ptrdiff_t *dbias_strides,
                              double *scratch, ptrdiff_t heads, ptrdiff_t kv_heads, ptrdiff_t n_q, ptrdiff_t n_k,
                              ptrdiff_t d, double scale, int causal, ptrdiff_t window, int add,
                              uint32_t dropout_threshold, uint64_t seed, uint32_t first_slice, ptrdiff_t first,
                              ptrdiff_t last);

/* rmsnorm */
int rr_rmsnorm_forward_f32(const float *x, const float *gain, float *y, float *inv_rms, ptrdiff_t d, double eps,
                           ptrdiff_t first, ptrdiff_t last);
int rr_rmsnorm_forward_f64(const double *x, const double *gain, double *y, double *inv_rms, ptrdiff_t d, double eps,
                           ptrdiff_t first, ptrdiff_t last);
int rr_rmsnorm_backward_f32(const float *dy, const float *x, const float *gain, const float *inv_rms,
                            const float *residual, float *dx, float *dgain_rows, ptrdiff_t d, ptrdiff_t rows,
                            ptrdiff_t block, ptrdiff_t first, ptrdiff_t last);
int rr_rmsnorm_backward_f64(const double *dy, const double *x, const double *gain, const double *inv_rms,
                            const double *residual, double *dx, double *dgain_rows, ptrdiff_t d, ptrdiff_t rows,
                            ptrdiff_t block, ptrdiff_t first, ptrdiff_t last);

/* loss */
int rr_cross_entropy_forward_f32(const float *logits, const int64_t *targets, float *probabilities, float *likelihoods,
                                 ptrdiff_t classes, ptrdiff_t first, ptrdiff_t last);
int rr_cross_entropy_forward_f64(const double *logits, const int64_t *targets, double *probabilities,
                                 double *likelihoods, ptrdiff_t classes, ptrdiff_t first, ptrdiff_t last);

/* swiglu */
int rr_swiglu_forward_f32(const float *gate, const float *up, float *y, const ptrdiff_t *row_steps, ptrdiff_t features,
                          ptrdiff_t first, ptrdiff_t last);
int rr_swiglu_backward_f32(const float *dy, const float *gate, const float *up, float *dgate, float *dup,
                           const ptrdiff_t *row_steps, ptrdiff_t features, ptrdiff_t first, ptrdiff_t last);
int rr_swiglu_forward_f64(const double *gate, const double *up, double *y, const ptrdiff_t *row_steps, ptrdiff_t features,
                          ptrdiff_t first, ptrdiff_t last);
int rr_swiglu_backward_f64(const double *dy, const double *gate, const double *up, double *dgate, double *dup,
                           const ptrdiff_t *row_steps, ptrdiff_t features, ptrdiff_t first, ptrdiff_t last);

/* row product */
int rr_row_product_f32(const float *x, const float *w, float *y, ptrdiff_t k, ptrdiff_t step, int transposed,
                       int add, ptrdiff_t first, ptrdiff_t last);
int rr_row_product_f64(const double *x, const double *w, double *y, ptrdiff_t k, ptrdiff_t step, int transposed,
                       int add, ptrdiff_t first, ptrdiff_t last);

/* decode */
ptrdiff_t rr_decode_scratch(ptrdiff_t d_model, ptrdiff_t heads, ptrdiff_t kv_heads, ptrdiff_t d, ptrdiff_t d_ff,
                            ptrdiff_t threads);
int rr_decode_f32(float *x, const float *const *weights, const float *const *tables, const ptrdiff_t *pairs, float *keys,
                  float *values, float *scratch, int32_t *meeting, ptrdiff_t layers, ptrdiff_t d_model, ptrdiff_t heads,
                  ptrdiff_t kv_heads, ptrdiff_t d, ptrdiff_t d_ff, ptrdiff_t capacity, ptrdiff_t length,
                  ptrdiff_t window, double eps, double scale, ptrdiff_t thread, ptrdiff_t threads);
int rr_decode_f64(double *x, const double *const *weights, const double *const *tables, const ptrdiff_t *pairs, double *keys,
                  double *values, double *scratch, int32_t *meeting, ptrdiff_t layers, ptrdiff_t d_model, ptrdiff_t heads,
                  ptrdiff_t kv_heads, ptrdiff_t d, ptrdiff_t d_ff, ptrdiff_t capacity, ptrdiff_t length,
                  ptrdiff_t window, double eps, double scale, ptrdiff_t thread, ptrdiff_t threads);

/* elementwise */
int rr_relu_forward_f32(const float *x, float *y, ptrdiff_t first, ptrdiff_t last);
int rr_relu_forward_f64(const double *x, double *y, ptrdiff_t first, ptrdiff_t last);
int rr_relu_backward_f32(const float *dy, const float *y, float *dx, ptrdiff_t first, ptrdiff_t last);
int rr_relu_backward_f64(const double *dy, const double *y, double *dx, ptrdiff_t first, ptrdiff_t last);
int rr_dropout_f32(const float *x, float *y, uint32_t threshold, uint64_t seed, uint32_t start, ptrdiff_t first,
                   ptrdiff_t last);
int rr_dropout_f64(const double *x, double *y, uint32_t threshold, uint64_t seed, uint32_t start, ptrdiff_t first,
                   ptrdiff_t last);
int rr_adamw_f32(float *weight, float *moment1, float *moment2, const float *grads, const double *settings,
                 ptrdiff_t parts, ptrdiff_t size, ptrdiff_t first, ptrdiff_t last);
int rr_adamw_f64(double *weight, double *moment1, double *moment2, const double *grads, const double *settings,
                 ptrdiff_t parts, ptrdiff_t size, ptrdiff_t first, ptrdiff_t last);
int rr_cross_entropy_backward_f32(float *probabilities, const int64_t *targets, const float *factors, ptrdiff_t classes,
                                  ptrdiff_t first, ptrdiff_t last);
int rr_cross_entropy_backward_f64(double *probabilities, const int64_t *targets, const double *factors, ptrdiff_t classes,
                                  ptrdiff_t first, ptrdiff_t last);
int rr_embedding_forward_f32(const int64_t *tokens, const float *table, float *y, ptrdiff_t d, ptrdiff_t first,
                             ptrdiff_t last);
int rr_embedding_forward_f64(const int64_t *tokens, const double *table, double *y, ptrdiff_t d, ptrdiff_t first,
                             ptrdiff_t last);
int rr_embedding_backward_f32(const float *dy, const int64_t *tokens, float *dtable, ptrdiff_t rows, ptrdiff_t d,
                              ptrdiff_t first, ptrdiff_t last);
int rr_embedding_backward_f64(const double *dy, const int64_t *tokens, double *dtable, ptrdiff_t rows, ptrdiff_t d,
                              ptrdiff_t first, ptrdiff_t last);

/* build */
const char *rr_compiler(void);
const char *rr_flags(void);
const char *rr_simd(void);

#endif
