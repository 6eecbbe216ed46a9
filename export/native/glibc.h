// manylinux_2_28 promises glibc 2.28; 2.29 gave `log` a newer version, which differs in how it reports errors alone.
#if defined(__x86_64__)
__asm__(".symver log,log@GLIBC_2.2.5");
#elif defined(__aarch64__)
__asm__(".symver log,log@GLIBC_2.17");
#endif
