// Checks ParallelFor of Caffe's caffe/util/parallel.hpp; prints the first thing that is wrong.
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "caffe/util/parallel.hpp"

using caffe::ParallelBlocks;
using caffe::ParallelFor;

static void Check(bool holds, const char* what) {
  if (!holds) {
    std::printf("%s\n", what);
    std::exit(1);
  }
}

// Every index once.
static void Once(int count) {
  std::vector<std::atomic<int>> calls(count);
  for (auto& number : calls) number = 0;
  ParallelFor(count, [&](int i) { ++calls[i]; });
  for (auto& number : calls) Check(number == 1, "an index was not taken once");
}

int main() {
  Check(caffe::NumThreads() == 4, "OMP_NUM_THREADS=4 is not followed");
  for (int round = 0; round < 200; ++round) {
    for (int count : {0, 1, 2, 3, 4, 5, 100}) Once(count);
  }

  std::vector<int> covered(1000, 0);
  ParallelBlocks(1000, 7, 1e9, [&](int begin, int end) {
    for (; begin < end; ++begin) ++covered[begin];
  });
  for (int number : covered) Check(number == 1, "blocks do not cover the range");

  // the exception of a body reaches the caller, and the threads go on to the next loop
  for (int where : {0, 3, 63}) {
    std::string caught;
    try {
      ParallelFor(64, [&](int i) {
        if (i == where) throw std::runtime_error("body " + std::to_string(i));
      });
    } catch (const std::runtime_error& error) {
      caught = error.what();
    }
    Check(caught == "body " + std::to_string(where), "an exception was lost");
    Once(50);
  }

  // loops in a loop, with memory of the thread's own
  std::atomic<int> inner(0), foreign(0);
  ParallelFor(16, [&](int i) {
    int* const own = caffe::ThreadScratch<int>(1000);
    for (int j = 0; j < 1000; ++j) own[j] = i;
    usleep(1000);
    for (int j = 0; j < 1000; ++j) foreign += own[j] != i;
    ParallelFor(10, [&](int) { ++inner; });
  });
  Check(inner == 160, "a loop in a loop lost calls");
  Check(foreign == 0, "two threads shared memory of their own");

  // loops of two threads at once
  std::thread other([] { for (int i = 0; i < 300; ++i) Once(20); });
  for (int i = 0; i < 300; ++i) Once(20);
  other.join();

  // one slow body: the other threads take the rest
  std::vector<std::thread::id> taken(40);
  ParallelFor(40, [&](int i) {
    taken[i] = std::this_thread::get_id();
    usleep(i == 0 ? 200000 : 1000);
  });
  int by_the_slow = 0;
  for (const auto& id : taken) by_the_slow += id == taken[0];
  Check(by_the_slow < 10, "work waited for a slow thread");
}
