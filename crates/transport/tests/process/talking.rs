//! Messages to and from a running child.

use tieline_testkit::wait::block_on;
use tieline_transport::SenderExt;

use super::*;

#[test]
fn cat_echoes_and_exits_at_the_end_of_its_input() {
    block_on(async {
        let (mut sender, mut receiver, control) = lines(&ProcessConfig::new("cat")).await;
        for text in ["{\"id\":1}", "two words", "é"] {
            sender.send(text).await.unwrap();
            assert_eq!(message(receiver.recv().await), text);
        }
        sender.close().await.unwrap();
        let reason = end(receiver.recv().await);
        assert!(reason.is_clean());
        assert_eq!(Exit::from(exit(reason)), Exit::code(0, ""));
        assert_eq!(control.info().messages_in, 3);
    });
}

#[test]
fn dropping_recv_within_a_line_loses_nothing() {
    block_on(async {
        let script = "printf hel; read more; echo \"$more\"";
        let (mut sender, mut receiver, control) = lines(&shell(script)).await;
        while control.info().bytes_in < 3 {
            assert!(wait::poll_once(receiver.recv()).await.is_none());
            tokio::task::yield_now().await;
        }
        sender.send("lo").await.unwrap();
        assert_eq!(message(receiver.recv().await), "hello");
    });
}

#[test]
fn flood_on_stderr_does_not_block_the_child() {
    block_on(async {
        // The child writes hundreds of times the capacity of a pipe without a newline, then 4 MB of
        // short lines. Whenever the pipe is full, the two processes wait for each other, which takes
        // long on a busy machine.
        let script =
            "head -c 20000000 /dev/zero >&2; yes | head -c 4000000 >&2; echo done; read x; exit 3";
        let (mut sender, mut receiver, _) = lines(&shell(script)).await;
        assert_eq!(message(receiver.recv().await), "done");
        sender.close().await.unwrap();
        let exit = exit(end(receiver.recv().await));
        assert_eq!(exit.status.code(), Some(3));
        assert_eq!(exit.stderr_tail, "y\n".repeat(32 * 1024), "the last 64 KiB");
    });
}

#[test]
fn stderr_is_read_even_if_the_line_is_not_used() {
    block_on(async {
        let directory = tempfile::tempdir().unwrap();
        let config = shell("head -c 1000000 /dev/zero >&2; echo > done; sleep 1000");
        let config = ProcessConfig { cwd: Some(directory.path().to_owned()), ..config };
        let _connection = launch(&config).await.unwrap();
        let done = directory.path().join("done");
        tokio::task::spawn_blocking(move || wait::until("the file", || done.exists()))
            .await
            .unwrap();
    });
}
