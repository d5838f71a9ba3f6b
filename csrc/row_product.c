/* row_product.c - one row times a matrix; row_product_body.h holds it, for every element type and instruction set. */
#define RR_BODY "row_product_body.h"
#include "rr_sets.h"
