//! A system call that this thread may not make any more: seccomp filters are a thread's own, and its children's.

use std::io;

/// From now on `call` fails with EPERM on this thread and those that it starts, if the argument of this index has this value.
pub(crate) fn deny(call: libc::c_long, argument: (u32, u32)) -> io::Result<()> {
    answer(call, Some(argument), libc::EPERM)
}

/// The same with an error number, and whatever the arguments are if none is given.
pub(crate) fn answer(call: libc::c_long, argument: Option<(u32, u32)>, errno: libc::c_int) -> io::Result<()> {
    if cfg!(target_endian = "big") {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "the filter is written for little endian"));
    }
    // Offsets in `struct seccomp_data`: the call's number, and the low half of an argument.
    const NUMBER: u32 = 0;
    let (offset, value) = argument.map_or((NUMBER, call as u32), |(index, value)| (16 + 8 * index, value));
    let line = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter { code: code as u16, jt, jf, k };
    let load = |offset| line(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset, 0, 0);
    // To the last line but one if it is not.
    let equals = |k, lines| line(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, k, 0, lines);
    let result = |k| line(libc::BPF_RET | libc::BPF_K, k, 0, 0);
    let mut program = [
        load(NUMBER),
        equals(call as u32, 3),
        load(offset),
        equals(value, 1),
        result(libc::SECCOMP_RET_ERRNO | errno as u32),
        result(libc::SECCOMP_RET_ALLOW),
    ];
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
