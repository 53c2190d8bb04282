// What a call costs: close(-1), which the kernel refuses at once, in nanoseconds.
#include <stdio.h>
#include <time.h>
#include <unistd.h>
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1e9 + t.tv_nsec; }
int main(void) {
  double best = 1e9;
  for (int round = 0; round < 200; round++) {
    double start = now();
    for (int i = 0; i < 10000; i++) close(-1);
    double each = (now() - start) / 10000;
    if (each < best) best = each;
  }
  printf("%.2f\n", best);
  return 0;
}
