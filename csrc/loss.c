/* loss.c - cross-entropy; loss_body.h holds it and is included for every element type and instruction set. */
enum {
    RR_LOSS_ROWS = 16, /* rows whose logarithms are taken together: the lanes of the widest vector */
    RR_LOSS_BLOCK = 64 /* vectors of a row that are added up before the others join */
};

#define RR_BODY "loss_body.h"
#include "rr_sets.h"
