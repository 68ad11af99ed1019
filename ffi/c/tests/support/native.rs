//! Builds programs against the C interface as users do: installs it to a directory and asks pkg-config.

use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// The interface, installed.
pub struct Installed {
    folder: TempDir,
}

impl Installed {
    /// Installs the library that cargo has built for this test.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // A test is beside the libraries that it depends on.
        let libraries = std::env::current_exe().unwrap().parent().unwrap().to_owned();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().find(|it| it.join("scripts").is_dir()).unwrap();
        let mut install = Command::new(script.join("scripts/install-c"));
        install.arg(folder.path()).arg("--from").arg(&libraries);
        succeed(install);
        Self { folder }
    }

    /// A place for programs.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What pkg-config says about the interface.
    pub fn pkg_config(&self, questions: &[&str]) -> Vec<String> {
        let mut ask = Command::new("pkg-config");
        let output = self.environment(&mut ask).args(questions).arg("dflow").output().expect("pkg-config runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().split_whitespace().map(str::to_owned).collect()
    }

    /// Lets a command find the interface with pkg-config.
    pub fn environment<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        command.env("PKG_CONFIG_PATH", self.folder().join("lib/pkgconfig"))
    }

    /// Compiles a program of one file.
    pub fn compile(&self, compiler: &str, source: &Path, options: &[&str]) -> PathBuf {
        let program = self.folder().join(source.file_stem().unwrap());
        let mut compile = Command::new(compiler);
        compile.args(["-g", "-Wall", "-Wextra", "-Werror"]).args(options);
        compile.args(self.pkg_config(&["--cflags"])).arg("-o").arg(&program).arg(source);
        compile.args(self.pkg_config(&["--libs"])).arg(self.rpath());
        succeed(compile);
        program
    }

    /// Lets the dynamic linker find the library.
    pub fn rpath(&self) -> String {
        format!("-Wl,-rpath,{}", self.folder().join("lib").display())
    }
}

/// Runs a command that must succeed.
pub fn succeed(mut command: Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?} cannot be run: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
