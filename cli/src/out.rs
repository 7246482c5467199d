//! What commands print.

use std::fmt;
use std::io::{ErrorKind, Write};

/// Prints a line to stdout, as `println!` does. A reader that left (`| head -1`) ends the command without a word.
macro_rules! outln {
    ($($line:tt)*) => { $crate::out::line(format_args!($($line)*)) };
}
pub(crate) use outln;

/// Prints a line; ends the process when nobody reads it, or it cannot be written.
pub(crate) fn line(line: fmt::Arguments<'_>) {
    match writeln!(std::io::stdout().lock(), "{line}") {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => {
            eprintln!("foreword: stdout: {error}");
            std::process::exit(1)
        }
    }
}
