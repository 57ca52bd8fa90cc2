/* cuda_fp16.h: stands in the place of CUDA's header of this name, of which nccl.h uses nothing in C. See cuda_runtime.h beside it. */
