//! Windows console events that stop the program: Ctrl-C, Ctrl-Break, close, logoff and shutdown.

use std::io;

use tokio::signal::windows::{
    CtrlBreak, CtrlC, CtrlClose, CtrlLogoff, CtrlShutdown, ctrl_break, ctrl_c, ctrl_close,
    ctrl_logoff, ctrl_shutdown,
};

pub(super) struct Next {
    interrupt: CtrlC,
    /// Ctrl-Break, which also reaches a program that was started in its own process group.
    terminate: CtrlBreak,
    /// The console was closed; Windows terminates the program soon after.
    close: CtrlClose,
    logoff: CtrlLogoff,
    shutdown: CtrlShutdown,
}

pub(super) fn next() -> io::Result<Next> {
    Ok(Next {
        interrupt: ctrl_c()?,
        terminate: ctrl_break()?,
        close: ctrl_close()?,
        logoff: ctrl_logoff()?,
        shutdown: ctrl_shutdown()?,
    })
}

impl Next {
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.close.recv() => {}
            _ = self.logoff.recv() => {}
            _ = self.shutdown.recv() => {}
        }
    }
}
