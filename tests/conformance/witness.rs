//! The outside witness: a seccomp filter of one thread, under which bytes reach a socket in one way and in no other.

use std::io;

/// The one way that is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Only {
    /// `send(2)` and `sendmsg(2)` without `MSG_ZEROCOPY`.
    Copy,
    /// `sendmsg(2)` with it.
    ZeroCopy,
    /// `vmsplice(2)`, `splice(2)` and `sendfile(2)`.
    Splice,
    /// `io_uring_enter(2)`.
    Ring,
}

/// When a call is an error.
#[derive(Debug, Clone, Copy)]
enum Denied {
    Always,
    /// If the argument has one of these bits.
    With(u32, u32),
    /// If the argument has none of these bits.
    Without(u32, u32),
    /// If the argument is more than this.
    Above(u32, u32),
}

const ZEROCOPY: u32 = libc::MSG_ZEROCOPY as u32;

/// Every call that puts bytes on a socket.
fn rules(only: Only) -> Vec<(libc::c_long, Denied)> {
    let mut rules = vec![
        // A runtime wakes itself by writing 8 bytes.
        (libc::SYS_write, Denied::Above(2, 8)),
        (libc::SYS_writev, Denied::Always),
        (libc::SYS_pwritev, Denied::Always),
        (libc::SYS_pwritev2, Denied::Always),
        (libc::SYS_sendmmsg, Denied::Always),
    ];
    // The flags are the third argument of one, and the fourth of the other.
    rules.extend(match only {
        Only::Copy => [(libc::SYS_sendmsg, Denied::With(2, ZEROCOPY)), (libc::SYS_sendto, Denied::With(3, ZEROCOPY))],
        Only::ZeroCopy => [(libc::SYS_sendmsg, Denied::Without(2, ZEROCOPY)), (libc::SYS_sendto, Denied::Always)],
        Only::Splice | Only::Ring => [(libc::SYS_sendmsg, Denied::Always), (libc::SYS_sendto, Denied::Always)],
    });
    if only != Only::Splice {
        let calls = [libc::SYS_splice, libc::SYS_vmsplice, libc::SYS_tee, libc::SYS_sendfile];
        rules.extend(calls.map(|call| (call, Denied::Always)));
    }
    if only != Only::Ring {
        rules.push((libc::SYS_io_uring_enter, Denied::Always));
    }
    rules
}

/// Offsets in `struct seccomp_data`: the call's number, and the low half of an argument (little endian).
const NUMBER: u32 = 0;
const fn argument(index: u32) -> u32 {
    16 + 8 * index
}

/// A classic BPF program: for each rule a comparison, which on a match decides, and otherwise goes on.
fn program(only: Only) -> Vec<libc::sock_filter> {
    const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    const BITS: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
    const MORE: u32 = libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K;
    const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
    let line = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter { code: code as u16, jt, jf, k };
    let deny = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    let mut program = Vec::new();
    for (call, denied) in rules(only) {
        program.push(line(LOAD, NUMBER, 0, 0));
        // Each rule has five lines, of which the first is done.
        program.push(line(EQUAL, call as u32, 0, 4));
        let (load, test, hit, miss) = match denied {
            Denied::Always => (NUMBER, line(EQUAL, call as u32, 0, 1), deny, libc::SECCOMP_RET_ALLOW),
            Denied::With(index, bits) => (argument(index), line(BITS, bits, 0, 1), deny, libc::SECCOMP_RET_ALLOW),
            Denied::Without(index, bits) => (argument(index), line(BITS, bits, 0, 1), libc::SECCOMP_RET_ALLOW, deny),
            Denied::Above(index, most) => (argument(index), line(MORE, most, 0, 1), deny, libc::SECCOMP_RET_ALLOW),
        };
        program.extend([line(LOAD, load, 0, 0), test, line(RETURN, hit, 0, 0), line(RETURN, miss, 0, 0)]);
    }
    program.push(line(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0));
    program
}

/// From now on this thread, and those that it starts, can send in no other way.
fn confine(only: Only) -> io::Result<()> {
    if cfg!(target_endian = "big") {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "the filter is written for little endian"));
    }
    let mut program = program(only);
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    #[expect(unsafe_code, reason = "a seccomp filter")]
    // SAFETY: the call takes numbers only.
    let no_new_privileges = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    #[expect(unsafe_code, reason = "a seccomp filter")]
    // SAFETY: the call reads `program`, which outlives it.
    let filter = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    let results = [no_new_privileges, filter];
    if results == [0, 0] { Ok(()) } else { Err(io::Error::last_os_error()) }
}

pub(crate) fn only_copy() -> io::Result<()> {
    confine(Only::Copy)
}

pub(crate) fn only_zero_copy() -> io::Result<()> {
    confine(Only::ZeroCopy)
}

pub(crate) fn only_splice() -> io::Result<()> {
    confine(Only::Splice)
}

#[cfg(zerosink_uring)]
pub(crate) fn only_ring() -> io::Result<()> {
    confine(Only::Ring)
}
