//! Moves all queue pairs of other processes to the error state, as a device does after a failure: `fail-queue-pairs
//! PID…`. For tests with soft-RoCE; requires root.
//!
//! It duplicates each process's descriptor of its device with `pidfd_getfd` and makes the request that the process
//! itself could make. libibverbs has no call for this, so the request is built by hand as in `rdma/ib_user_verbs.h`.

use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl, opcode};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use std::ffi::c_void;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

/// Handles are small numbers, starting at zero, in one number space for all kinds of objects.
const HANDLES: u32 = 1024;

/// `struct ib_uverbs_modify_qp`.
#[repr(C)]
struct ModifyQueuePair {
    destinations: [u8; 64],
    handle: u32,
    attributes: u32,
    unused: [u32; 6],
    state: u8,
    others: [u8; 15],
}

/// `struct ib_uverbs_attr`.
#[repr(C)]
struct Attribute {
    id: u16,
    length: u16,
    flags: u16,
    reserved: u16,
    data: u64,
}

/// `struct ib_uverbs_ioctl_hdr` with its attributes.
#[repr(C)]
struct Invoke {
    length: u16,
    object: u16,
    method: u16,
    count: u16,
    reserved: u64,
    driver: u32,
    reserved_too: u32,
    attributes: [Attribute; 2],
}

const RDMA_DRIVER_RXE: u32 = 14;
const IB_USER_VERBS_CMD_MODIFY_QP: u64 = 26;
const IB_QP_STATE: u32 = 1;
const IB_QPS_ERR: u8 = 6;
const UVERBS_ATTR_CORE_IN: u16 = 0;
const UVERBS_ATTR_WRITE_CMD: u16 = 2;
const UVERBS_ATTR_F_MANDATORY: u16 = 1;

// SAFETY: the request holds the address of a structure of the length that it states, which outlives the call.
unsafe impl Ioctl for Invoke {
    type Output = ();

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        // The size in `RDMA_VERBS_IOCTL` is that of the header alone.
        opcode::read_write::<[u64; 3]>(0x1b, 1)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::from_mut(self).cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> rustix::io::Result<()> {
        Ok(())
    }
}

fn main() -> ExitCode {
    let mut failed = 0;
    for word in std::env::args().skip(1) {
        match word.parse().map_err(|_| format!("'{word}' is no process id")).and_then(fail_queue_pairs_of) {
            Ok(count) => failed += count,
            Err(reason) => {
                eprintln!("fail-queue-pairs: {reason}");
                return ExitCode::FAILURE;
            }
        }
    }
    println!("queue pairs that have failed: {failed}");
    if failed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Fails all queue pairs of a process and returns their number.
fn fail_queue_pairs_of(process: i32) -> Result<usize, String> {
    let say = |what: &str| format!("{what} of process {process}");
    let pid = Pid::from_raw(process).ok_or_else(|| say("no such id"))?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(|error| format!("{}: {error}", say("the descriptor")))?;
    let mut failed = 0;
    let files =
        std::fs::read_dir(format!("/proc/{process}/fd")).map_err(|error| format!("{}: {error}", say("the files")))?;
    for file in files.flatten() {
        let is_device =
            std::fs::read_link(file.path()).is_ok_and(|target| target.starts_with("/dev/infiniband/uverbs0"));
        let Some(number) = file.file_name().to_str().and_then(|name| name.parse().ok()).filter(|_| is_device) else {
            continue;
        };
        let device = pidfd_getfd(&pidfd, number, PidfdGetfdFlags::empty())
            .map_err(|error| format!("{}: {error}", say("the device")))?;
        for handle in 0..HANDLES {
            match fail_queue_pair(&device, handle) {
                Ok(()) => failed += 1,
                // No object has this handle, or it is not a queue pair.
                Err(Errno::INVAL | Errno::NOENT | Errno::BADF) => {}
                Err(error) => return Err(format!("{}: {error}", say("a queue pair"))),
            }
        }
    }
    Ok(failed)
}

fn fail_queue_pair(device: &OwnedFd, handle: u32) -> rustix::io::Result<()> {
    let order = ModifyQueuePair {
        destinations: [0; 64],
        handle,
        attributes: IB_QP_STATE,
        unused: [0; 6],
        state: IB_QPS_ERR,
        others: [0; 15],
    };
    let attribute = |id, length, data| Attribute { id, length, flags: UVERBS_ATTR_F_MANDATORY, reserved: 0, data };
    let request = Invoke {
        length: size_of::<Invoke>() as u16,
        object: 0,
        method: 0,
        count: 2,
        reserved: 0,
        driver: RDMA_DRIVER_RXE,
        reserved_too: 0,
        attributes: [
            attribute(UVERBS_ATTR_CORE_IN, size_of_val(&order) as u16, std::ptr::from_ref(&order).addr() as u64),
            attribute(UVERBS_ATTR_WRITE_CMD, 8, IB_USER_VERBS_CMD_MODIFY_QP),
        ],
    };
    // SAFETY: this is the layout of the request. Its parts stay alive until the call returns, and the kernel only reads
    // them.
    unsafe { ioctl(device.as_fd(), request) }
}
