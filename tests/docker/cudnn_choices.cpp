// What the convolutions of a CUDA build ask of cuDNN, without a GPU: the few functions of CUDA and
// cuDNN that they call are this program's, and take the place of the libraries'. Linked with the
// build's own libcaffe.so; prints one line per check that fails. test_cuda_build.py runs it.

#include <boost/thread.hpp>

#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

#include "caffe/util/cudnn_convolution.hpp"

namespace {

const size_t kBig = 300u << 20, kSmall = 1000, kMemory = 1u << 20;  // bytes

int rankings = 0, handles = 0;
bool timed = false;  // the last ranking
cudnnMathType_t math;
char* workspace = NULL;
size_t workspace_bytes = 0;
bool out_of_memory = false;

struct Call {
  const char* name;
  long handle;
  int algorithm;
  cudnnMathType_t math;
  long begin, end;  // of its part of the workspace
  float beta;
};
std::vector<Call> calls;

// The ranking of all directions: 3 (fails), 2 (much workspace), 1 (little), 0 (none).
template <typename Perf>
cudnnStatus_t Rank(bool measured, int* count, Perf* ranked) {
  ++rankings;
  timed = measured;
  *count = 4;
  for (int i = 0; i < 4; ++i) {
    ranked[i].status = i == 0 ? CUDNN_STATUS_NOT_SUPPORTED : CUDNN_STATUS_SUCCESS;
    ranked[i].algo = static_cast<decltype(ranked[i].algo)>(3 - i);
    ranked[i].mathType = CUDNN_TENSOR_OP_MATH;
  }
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t Size(int algorithm, size_t* bytes) {
  *bytes = algorithm == 2 ? kBig : algorithm == 1 ? kSmall : 0;
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t Record(const char* name, cudnnHandle_t handle, int algorithm, void* part,
                     size_t bytes, const void* beta) {
  const long begin = part ? static_cast<char*>(part) - workspace : 0;
  Call call = {name, reinterpret_cast<long>(handle), algorithm, math, begin,
               begin + static_cast<long>(bytes), *static_cast<const float*>(beta)};
  calls.push_back(call);
  return CUDNN_STATUS_SUCCESS;
}

}  // namespace

extern "C" {
typedef cudnnTensorDescriptor_t T;
typedef cudnnFilterDescriptor_t F;
typedef cudnnConvolutionDescriptor_t C;
typedef cudnnHandle_t H;
typedef cudnnConvolutionFwdAlgo_t Fwd;
typedef cudnnConvolutionBwdFilterAlgo_t BwdFilter;
typedef cudnnConvolutionBwdDataAlgo_t BwdData;
typedef const void* In;

cudnnStatus_t cudnnCreate(H* handle) {
  *handle = reinterpret_cast<H>(static_cast<long>(++handles));
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnSetStream(H, cudaStream_t) { return CUDNN_STATUS_SUCCESS; }
cudnnStatus_t cudnnSetConvolutionMathType(C, cudnnMathType_t type) {
  math = type;
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnGetConvolutionForwardAlgorithm_v7(
    H, T, F, C, T, int, int* count, cudnnConvolutionFwdAlgoPerf_t* ranked) {
  return Rank(false, count, ranked);
}
cudnnStatus_t cudnnFindConvolutionForwardAlgorithm(
    H, T, F, C, T, int, int* count, cudnnConvolutionFwdAlgoPerf_t* ranked) {
  return Rank(true, count, ranked);
}
cudnnStatus_t cudnnGetConvolutionBackwardFilterAlgorithm_v7(
    H, T, T, C, F, int, int* count, cudnnConvolutionBwdFilterAlgoPerf_t* ranked) {
  return Rank(false, count, ranked);
}
cudnnStatus_t cudnnFindConvolutionBackwardFilterAlgorithm(
    H, T, T, C, F, int, int* count, cudnnConvolutionBwdFilterAlgoPerf_t* ranked) {
  return Rank(true, count, ranked);
}
cudnnStatus_t cudnnGetConvolutionBackwardDataAlgorithm_v7(
    H, F, T, C, T, int, int* count, cudnnConvolutionBwdDataAlgoPerf_t* ranked) {
  return Rank(false, count, ranked);
}
cudnnStatus_t cudnnFindConvolutionBackwardDataAlgorithm(
    H, F, T, C, T, int, int* count, cudnnConvolutionBwdDataAlgoPerf_t* ranked) {
  return Rank(true, count, ranked);
}

cudnnStatus_t cudnnGetConvolutionForwardWorkspaceSize(H, T, F, C, T, Fwd algorithm, size_t* bytes) {
  return Size(algorithm, bytes);
}
cudnnStatus_t cudnnGetConvolutionBackwardFilterWorkspaceSize(
    H, T, T, C, F, BwdFilter algorithm, size_t* bytes) {
  return Size(algorithm, bytes);
}
cudnnStatus_t cudnnGetConvolutionBackwardDataWorkspaceSize(
    H, F, T, C, T, BwdData algorithm, size_t* bytes) {
  return Size(algorithm, bytes);
}

cudnnStatus_t cudnnConvolutionForward(H handle, In, T, In, F, In, C, Fwd algorithm, void* part,
                                      size_t bytes, In beta, T, void*) {
  return Record("forward", handle, algorithm, part, bytes, beta);
}
cudnnStatus_t cudnnConvolutionBackwardFilter(H handle, In, T, In, T, In, C, BwdFilter algorithm,
                                             void* part, size_t bytes, In beta, F, void*) {
  return Record("filter", handle, algorithm, part, bytes, beta);
}
cudnnStatus_t cudnnConvolutionBackwardData(H handle, In, F, In, T, In, C, BwdData algorithm,
                                           void* part, size_t bytes, In beta, T, void*) {
  return Record("data", handle, algorithm, part, bytes, beta);
}

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t*) { return cudaSuccess; }
cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
cudaError_t cudaGetLastError() { return cudaSuccess; }
cudaError_t cudaFree(void* memory) {
  free(memory);
  return cudaSuccess;
}
cudaError_t cudaMalloc(void** memory, size_t bytes) {
  if (out_of_memory || bytes > kMemory) { return cudaErrorMemoryAllocation; }
  *memory = workspace = static_cast<char*>(malloc(bytes));
  workspace_bytes = bytes;
  return cudaSuccess;
}
}

namespace {

typedef caffe::cudnn::Convolution<float> Convolution;
const std::vector<int> kShape = {2, 3, 6, 4}, kOther = {5, 3, 17, 33};
const caffe::cudnn::ConvolutionDescriptors kDescriptors = {};
int failures = 0;

void Check(bool good, const std::string& what) {
  if (!good) {
    std::cout << what << std::endl;
    ++failures;
  }
}

// Forward and backward as the convolution layer does them.
void Compute(Convolution* convolution, int groups) {
  calls.clear();
  convolution->Prepare(groups);
  for (int g = 0; g < groups; ++g) { convolution->Forward(g, g, 0, 0, 0); }
  convolution->Prepare(groups);
  for (int g = 0; g < groups; ++g) {
    convolution->BackwardFilter(groups + g, g, 0, 0, 0);
    convolution->BackwardData(2 * groups + g, g, 0, 0, 0);
  }
}

bool Disjoint(const Call& a, const Call& b) { return a.end <= b.begin || b.end <= a.begin; }

void CheckCalls(int groups, int algorithm, cudnnMathType_t expected) {
  Check(calls.size() == 3 * groups, "one call per group and direction");
  for (size_t i = 0; i < calls.size(); ++i) {
    Check(calls[i].algorithm == algorithm, std::string(calls[i].name) + ": algorithm");
    Check(calls[i].math == expected, std::string(calls[i].name) + ": arithmetic");
    Check(calls[i].end <= static_cast<long>(workspace_bytes), "part within the workspace");
    Check(calls[i].begin % 256 == 0, "part is aligned");
    Check(calls[i].beta == (calls[i].name == std::string("filter")), "only filters accumulate");
    for (size_t j = i + 1; j < calls.size(); ++j) {  // forward and backward: one after the other
      const bool together = (i < groups) == (j < groups);
      Check(!together || Disjoint(calls[i], calls[j]), "parts of calls at a time are disjoint");
      Check(!together || calls[i].handle != calls[j].handle, "streams of calls at a time");
    }
  }
}

}  // namespace

int main() {
  const bool tf32 = getenv("CAFFE_TF32") != NULL, find = getenv("CAFFE_CUDNN_FIND") != NULL;
  const cudnnMathType_t expected = tf32 ? CUDNN_TENSOR_OP_MATH : CUDNN_FMA_MATH;

  Convolution one, two;
  const std::vector<int> shapes[] = {kShape, kShape, kOther, kShape, kOther};
  const int total[] = {3, 3, 6, 6, 6};  // rankings so far: three directions for each new shape
  for (int i = 0; i < 5; ++i) {
    one.Reshape(shapes[i], kDescriptors);
    Check(rankings == total[i], "algorithms are ranked once per shape");
  }
  Check(timed == find, "CAFFE_CUDNN_FIND");

  Compute(&one, 2);
  CheckCalls(2, 1, expected);
  Check(handles == 7, "handles: one, and one for each group and direction");
  two.Reshape(kShape, kDescriptors);
  Compute(&two, 1);
  CheckCalls(1, 1, expected);
  Check(handles == 7, "layers share handles");
  for (int i = 0; i < 2; ++i) {
    boost::thread other([&] { Compute(&two, 1); });
    other.join();
    CheckCalls(1, 1, expected);
    Check(handles == 7 + 4, "a thread has handles of its own, and leaves them to the next");
  }

  out_of_memory = true;
  const int before = rankings;
  Convolution poor;
  poor.Reshape(kOther, kDescriptors);
  for (int i = 0; i < 2; ++i) {
    Compute(&poor, 50);  // more than the workspace there is
    CheckCalls(50, 0, expected);
    Check(rankings == before + 3 + 3, "where memory is short, ranked once more");
  }
  poor.Reshape(kShape, kDescriptors);
  poor.Reshape(kOther, kDescriptors);
  Compute(&poor, 50);
  CheckCalls(50, 0, expected);
  Check(rankings == before + 3 + 3 + 3, "the slower choice is kept for its shape");
  return failures ? 1 : 0;
}
