//! Compiles the packet generator's and the receiver's BPF programs to object files, which the library includes.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

use libbpf_cargo::SkeletonBuilder;

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let arch = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets CARGO_CFG_TARGET_ARCH");
    // <linux/bpf.h> includes <asm/types.h>, which Debian keeps under the multiarch folder.
    let args: Vec<OsString> = vec![
        format!("-I/usr/include/{arch}-linux-gnu").into(),
        "-Wall".into(),
        "-Werror".into(),
    ];
    for name in ["generate", "sink"] {
        let source = format!("src/bpf/{name}.bpf.c");
        println!("cargo:rerun-if-changed={source}");
        let object = out.join(format!("{name}.o"));
        if let Err(error) = SkeletonBuilder::new()
            .source(&source)
            .obj(object)
            .clang_args(&args)
            .build()
        {
            eprintln!("{source} does not compile: {error:?}");
            eprintln!("needed: clang (14 or newer) and linux-libc-dev; `apt install clang linux-libc-dev`");
            std::process::exit(1);
        }
    }
}
