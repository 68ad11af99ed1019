//! The smallest program: its first instructions read the clock, write the time to standard output, and exit.
//!
//! It shows the cost of starting a program that itself costs nothing. It is linked without a runtime (see `build.rs`),
//! so nothing runs before `_start`. On processors other than x86-64 it is an ordinary program with the start-up cost of
//! one.
#![cfg_attr(target_arch = "x86_64", no_main)]

/// The entry point: writes a `timespec` of CLOCK_MONOTONIC and exits with status 0.
#[cfg(target_arch = "x86_64")]
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub extern "C" fn _start() -> ! {
    core::arch::naked_asm!(
        "sub rsp, 16",
        "mov eax, 228", // clock_gettime(CLOCK_MONOTONIC, rsp)
        "mov edi, 1",
        "mov rsi, rsp",
        "syscall",
        "mov eax, 1", // write(stdout, rsp, 16)
        "mov edi, 1",
        "mov rsi, rsp",
        "mov edx, 16",
        "syscall",
        "mov eax, 60", // exit(0)
        "xor edi, edi",
        "syscall",
        "ud2",
    )
}

/// Writes a `timespec` of CLOCK_MONOTONIC.
#[cfg(not(target_arch = "x86_64"))]
fn main() -> std::io::Result<()> {
    use std::io::Write;
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let mut out = std::io::stdout();
    out.write_all(&now.tv_sec.to_ne_bytes())?;
    out.write_all(&now.tv_nsec.to_ne_bytes())
}
