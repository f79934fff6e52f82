//! Decides once which of the two builds this is: `zerosink_linux`, or the portable one that copies. `zerosink_uring` is the
//! former with the feature `io-uring`.
//!
//! `--cfg zerosink_portable` forces the portable build on Linux, so that it can be tested there.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(zerosink_linux)");
    println!("cargo::rustc-check-cfg=cfg(zerosink_uring)");
    // Features and flags are watched anyhow; no file but this one matters.
    println!("cargo::rerun-if-env-changed=CARGO_FEATURE_IO_URING");
    let linux = std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux");
    let portable = std::env::var_os("CARGO_CFG_ZEROSINK_PORTABLE").is_some();
    if linux && !portable {
        println!("cargo::rustc-cfg=zerosink_linux");
        if std::env::var_os("CARGO_FEATURE_IO_URING").is_some() {
            println!("cargo::rustc-cfg=zerosink_uring");
        }
    }
}
