// manylinux_2_28 guarantees only glibc 2.28. glibc 2.29 added a new version of `log`, which differs only in how it
// reports errors, so the old version is used.
#if defined(__x86_64__)
__asm__(".symver log,log@GLIBC_2.2.5");
#elif defined(__aarch64__)
__asm__(".symver log,log@GLIBC_2.17");
#endif
