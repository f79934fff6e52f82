//! Memory that is released as soon as it is accepted: a ring whose pages are replaced, a file, and a sealed copy.
//!
//! ```text
//! cargo run --release --example fresh_pages
//! ```

#[cfg(zerosink_linux)]
fn main() -> std::io::Result<()> {
    linux::main()
}

#[cfg(not(zerosink_linux))]
fn main() {
    println!("the portable build copies: it has no pages to replace");
}

#[cfg(zerosink_linux)]
mod linux {
    use std::{fs::File, io, net::TcpListener, thread};

    use bytes::{BufMut as _, Bytes};
    use zerosink::{
        mapped::{MapOptions, Pages, Region},
        prelude::*,
    };

    const BATCH: usize = 2 << 20;
    const TOTAL: usize = 256 << 20;

    #[tokio::main(flavor = "current_thread")]
    pub(crate) async fn main() -> io::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let reader = thread::spawn(move || io::copy(&mut listener.accept()?.0, &mut io::sink()));
        let mut sink = ZeroCopySink::auto(tokio::net::TcpStream::connect(address).await?).await?;

        let ring = fresh_ring()?;
        for batch in 0..TOTAL / BATCH {
            let mut grant = ring.reserve(BATCH).await?;
            grant.put_bytes(batch as u8, BATCH);
            sink.send(grant.commit()).await?;
        }
        println!("after {} MiB through {} MiB of ring: {:?}", TOTAL >> 20, ring.capacity() >> 20, ring.stats());

        let page = sealed_page()?;
        for source in [file()?, page.clone(), page] {
            println!("{} bytes of {}", source.len(), zerosink::region::facts_of(&source).expect("a region").backing);
            sink.send(source).await?;
        }
        sink.close().await?;
        let accepted = sink.position().accepted;
        println!("{:?}", sink.stats());
        drop(sink);
        let received = reader.join().expect("it only reads")?;
        assert_eq!(received, accepted);
        Ok(())
    }

    // ANCHOR: ring
    fn fresh_ring() -> io::Result<Ring> {
        let memory = MapOptions::new().pages(Pages::Huge).anonymous(8 << 20)?;
        for fallback in memory.fallbacks() {
            eprintln!("{fallback}: {:?}", std::error::Error::source(fallback));
        }
        Ok(Ring::builder().reuse(Reuse::FreshPages).build_on(memory)?)
    }
    // ANCHOR_END: ring

    #[expect(unsafe_code, reason = "a promise about a file that only its owner can give")]
    // ANCHOR: file
    fn file() -> io::Result<Bytes> {
        let executable = File::open(std::env::current_exe()?)?;
        // SAFETY: the kernel lets nobody write to an executable that runs (ETXTBSY), and it is replaced by renaming.
        unsafe { Region::from_file(&executable, ..) }
    }
    // ANCHOR_END: file

    // ANCHOR: sealed
    fn sealed_page() -> io::Result<Bytes> {
        Region::copied(include_bytes!("../README.md"))
    }
    // ANCHOR_END: sealed
}
