//! The program that the integration tests start as the adapter.

fn main() -> std::process::ExitCode {
    dflow_command::main()
}
