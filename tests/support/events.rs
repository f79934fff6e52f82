//! What a thread logs.

use std::{
    cell::RefCell,
    fmt::{Debug, Write as _},
    sync::Once,
};

use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
    subscriber::set_global_default,
};

thread_local! {
    static LINES: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// The events of this thread, as `LEVEL message field=value`, while it lives.
pub(crate) struct Events(());

impl Events {
    pub(crate) fn recorded() -> Self {
        // One for all threads: whether anybody listens is asked once for each place in the code, by whichever thread comes first.
        static ONCE: Once = Once::new();
        ONCE.call_once(|| set_global_default(Recorder).unwrap());
        LINES.set(Some(Vec::new()));
        Self(())
    }

    /// How many there were that have all these words.
    pub(crate) fn count(&self, words: &[&str]) -> usize {
        self.all().iter().filter(|line| words.iter().all(|word| line.contains(word))).count()
    }

    /// All of them, for a message.
    pub(crate) fn all(&self) -> Vec<String> {
        LINES.with_borrow(Clone::clone).unwrap_or_default()
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        LINES.set(None);
    }
}

struct Recorder;

impl Subscriber for Recorder {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::DEBUG && metadata.target().starts_with("zerosink")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        LINES.with_borrow_mut(|lines| {
            if let Some(lines) = lines {
                let mut line = Line(event.metadata().level().to_string());
                event.record(&mut line);
                lines.push(line.0);
            }
        });
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "message" => write!(self.0, " {value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        }
        .unwrap();
    }
}
