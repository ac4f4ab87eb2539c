//! The terminal while `top` has it: an alternate screen without echo, given back however `top` ends.

use std::io::{self, BufWriter, Stdout, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// A frame is collected and written in one go: a slow terminal gets whole frames, and only what has changed of each.
type Backend = CrosstermBackend<BufWriter<Stdout>>;

/// The terminal, in the state that `top` needs. Dropping it gives it back as it was.
pub(super) struct Screen {
    pub(super) terminal: Terminal<Backend>,
    ended: Arc<AtomicBool>,
}

impl Screen {
    /// Takes the terminal.
    pub(super) fn open() -> io::Result<Self> {
        let ended = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&ended))?;
        }
        // A panic ends the program without unwinding; its message must not be lost with the alternate screen.
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore();
            hook(panic);
        }));
        enable_raw_mode()?;
        let open = || {
            let mut out = BufWriter::with_capacity(64 * 1024, io::stdout());
            execute!(out, EnterAlternateScreen)?;
            Terminal::new(CrosstermBackend::new(out))
        };
        match open() {
            Ok(terminal) => Ok(Self { terminal, ended }),
            Err(error) => {
                restore();
                Err(error)
            }
        }
    }

    /// Whether a signal asked to end.
    pub(super) fn is_ended(&self) -> bool {
        self.ended.load(Relaxed)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

/// Gives the terminal back. Where it is gone, nothing is left to be done.
fn restore() {
    let mut out = io::stdout();
    let _ = execute!(out, LeaveAlternateScreen, Show);
    let _ = disable_raw_mode();
    let _ = out.flush();
}
