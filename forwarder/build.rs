//! Compiles the steering program; the `steer` module includes the object file.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

use libbpf_cargo::SkeletonBuilder;

const SOURCE: &str = "src/bpf/steer.bpf.c";

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("steer.bpf.o");
    let arch = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets CARGO_CFG_TARGET_ARCH");
    // <linux/bpf.h> includes <asm/types.h>, which Debian keeps under the multiarch folder: clang for the BPF target
    // does not look there by itself.
    let args: Vec<OsString> = vec![
        format!("-I/usr/include/{arch}-linux-gnu").into(),
        "-Wall".into(),
        "-Werror".into(),
    ];
    if let Err(error) = SkeletonBuilder::new()
        .source(SOURCE)
        .obj(&out)
        .clang_args(args)
        .build()
    {
        eprintln!("{SOURCE} does not compile: {error:?}");
        eprintln!("needed: clang (14 or newer) and linux-libc-dev; `apt install clang linux-libc-dev`");
        std::process::exit(1);
    }
    println!("cargo:rerun-if-changed={SOURCE}");
}
