//! A send and its completions, without a kernel.

use bytes::Bytes;
use zerosink_core::Refusal;

use crate::{
    io_uring::operation::{Memory, Next, Operation},
    sys::uring::{Completion, How, Payload},
};

const ZERO_COPY: How = How::ZeroCopy { report_usage: true };

fn of(pieces: &[&'static [u8]], how: How) -> Operation {
    Operation::new(pieces.iter().map(|piece| Bytes::from_static(piece)).collect::<Memory>(), how, None)
}

const fn result(result: Result<usize, i32>, notification_follows: bool) -> Completion {
    Completion::Result { result, notification_follows }
}

const fn notification(copied: bool) -> Completion {
    Completion::Notification { copied }
}

/// What would be submitted: the bytes of a single piece, `None` for several.
fn submitted(operation: &mut Operation) -> (Option<Vec<u8>>, How) {
    let (payload, how) = operation.submission();
    match payload {
        Payload::One(piece) | Payload::Registered(piece, _) => (Some(piece.to_vec()), how),
        Payload::Many(_) => (None, how),
    }
}

#[test]
fn it_is_over_at_its_result_and_released_at_its_notification() {
    let mut send = of(&[b"0123456789"], ZERO_COPY);
    assert_eq!(submitted(&mut send), (Some(b"0123456789".to_vec()), ZERO_COPY));
    assert_eq!(send.take(result(Ok(10), true)), Next::Over(Ok(())));
    assert!(!send.is_released() && !send.is_untouched());
    assert_eq!(send.take(notification(true)), Next::Wait);
    assert!(send.is_released());
    assert_eq!((send.sent, send.sent_zero_copy, send.copied()), (10, 10, Some(true)));
}

#[test]
fn the_rest_of_a_short_one_follows_and_all_its_notifications_count_in_any_order() {
    let mut send = of(&[b"0123", b"4567", b"89"], ZERO_COPY);
    assert_eq!(submitted(&mut send).0, None);
    assert_eq!(send.take(result(Ok(5), true)), Next::Submit);
    assert_eq!(submitted(&mut send).0, None);
    assert_eq!(send.take(result(Ok(3), true)), Next::Submit);
    assert_eq!(submitted(&mut send).0, Some(b"89".to_vec()));
    // The one of the second submission, or of the first.
    assert_eq!(send.take(notification(false)), Next::Wait);
    assert_eq!(send.take(result(Ok(2), true)), Next::Over(Ok(())));
    assert_eq!(send.take(notification(true)), Next::Wait);
    assert!(!send.is_released(), "one is still to come");
    assert_eq!(send.take(notification(false)), Next::Wait);
    assert!(send.is_released());
    assert_eq!(send.copied(), Some(true), "a part was");
}

#[test]
fn an_error_may_have_a_notification_and_only_the_result_says_so() {
    for follows in [false, true] {
        let mut send = of(&[b"0123456789"], ZERO_COPY);
        assert_eq!(send.begun(None), Next::Wait);
        assert_eq!(send.take(result(Err(libc::ECONNRESET), follows)), Next::Over(Err(libc::ECONNRESET)));
        assert_eq!(send.is_released(), !follows);
        if follows {
            send.take(notification(true));
        }
        assert!(send.is_released());
        assert_eq!(send.copied(), None, "nothing was sent that it could say something about");
    }
}

#[test]
fn a_refused_first_submission_is_for_whoever_queued_it_while_he_is_there() {
    for errno in [libc::ENOBUFS, libc::ENOMEM, libc::EOPNOTSUPP, libc::EPIPE] {
        let mut send = of(&[b"0123456789"], ZERO_COPY);
        assert_eq!(send.take(result(Err(errno), false)), Next::Refused(errno));
        assert!(send.is_untouched());
    }
}

#[test]
fn what_was_accepted_is_tried_again_and_then_copied() {
    let mut send = of(&[b"0123456789"], ZERO_COPY);
    assert_eq!(send.begun(None), Next::Wait);
    assert_eq!(send.take(result(Ok(4), true)), Next::Submit);
    assert_eq!(send.take(result(Err(libc::ENOBUFS), false)), Next::Submit);
    assert_eq!(submitted(&mut send), (Some(b"456789".to_vec()), ZERO_COPY));
    assert_eq!((send.take(result(Err(libc::ENOBUFS), false)), send.fallback), (Next::Submit, Some(Refusal::NoBuffers)));
    assert_eq!(submitted(&mut send), (Some(b"456789".to_vec()), How::Copy));
    assert_eq!(send.take(result(Ok(6), false)), Next::Over(Ok(())));
    assert_eq!((send.sent, send.sent_zero_copy, send.is_released()), (10, 4, false));
    send.take(notification(false));
    assert!(send.is_released());
}

#[test]
fn a_submission_whose_thread_is_gone_is_made_again_but_not_for_ever() {
    for (errno, next) in [(libc::ECANCELED, Next::Submit), (libc::EINTR, Next::Submit), (libc::EAGAIN, Next::Park)] {
        let mut send = of(&[b"0123456789"], ZERO_COPY);
        assert_eq!(send.begun(None), Next::Wait);
        let mut nexts = (0..10).map(|_| send.take(result(Err(errno), false)));
        assert_eq!(nexts.by_ref().take_while(|got| *got == next).count(), 7, "{errno}");
        assert!(nexts.any(|next| matches!(next, Next::Over(Err(_)))), "{errno}");
    }
    // Progress, and waiting for room, start the count anew.
    let mut send = of(&[b"0123456789"], ZERO_COPY);
    assert_eq!(send.begun(None), Next::Wait);
    for _ in 0..9 {
        assert_eq!(send.take(result(Err(libc::ECANCELED), false)), Next::Submit);
        assert_eq!(send.take(result(Ok(1), false)), Next::Submit);
        assert_eq!(send.take(result(Err(libc::EAGAIN), false)), Next::Park);
        send.parked();
    }
}

#[test]
fn a_submission_that_sends_nothing_again_and_again_fails() {
    let mut send = of(&[b"0123456789"], ZERO_COPY);
    for _ in 0..7 {
        assert_eq!(send.take(result(Ok(0), false)), Next::Submit);
    }
    assert_eq!(send.take(result(Ok(0), false)), Next::Over(Err(libc::EIO)));
}
