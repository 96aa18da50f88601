//! The `paredown` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    // candle's own threads wait for each other in busy loops, beside ours: training takes twice the time with them.
    if std::env::var_os("CANDLE_NUM_THREADS").is_none() {
        // SAFETY: the program begins here. It has no other thread yet that could read the environment meanwhile.
        unsafe { std::env::set_var("CANDLE_NUM_THREADS", "1") };
    }
    paredown::cli::run(std::env::args_os())
}
