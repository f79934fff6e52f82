//! A file service in axum, twice: files read into a ring, and files sent from the page cache. Both with `Range` and `HEAD`.
//!
//! ```text
//! cargo run --release --example axum_ring -- DIRECTORY 127.0.0.1:8080
//! curl -r 0-99 http://127.0.0.1:8080/ring/FILE
//! curl -I http://127.0.0.1:8080/region/FILE
//! ```

use std::{
    error::Error,
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::{Component, Path as FilePath, PathBuf},
    time::UNIX_EPOCH,
};

use axum::{
    Router,
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode},
    response::{IntoResponse as _, Response},
    routing::get,
};
use tokio::{net::TcpListener, task::spawn_blocking};
use zerosink::{
    axum::ZeroCopyListenerExt as _,
    body::{BodyRing, Budget, Representation, RingBody},
    prelude::*,
    tower::ZeroCopyLayer,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(arguments.next().unwrap_or_else(|| ".".into()));
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:8080".into());

    // ANCHOR: serve
    // 64 MiB > stalled × (budget + cap): with 128 KiB for each body and 1 MiB for each connection, 56 clients may stop reading.
    // When less than 8 MiB are free, nobody gets more of it to hold: what is sent is copied then.
    let ring = Ring::builder().capacity(64 << 20).low_water(8 << 20).build()?;
    let layer = ZeroCopyLayer::new().ring(ring).budget(Budget::new().leases(2).chunk(64 << 10));
    let sinks = SinkConfig::new().max_pinned_bytes(1 << 20);
    let app = Router::new()
        .route("/ring/{name}", get(from_ring))
        .route("/region/{name}", get(from_region))
        .with_state(directory)
        .layer(layer);
    let listener = TcpListener::bind(address).await?.zero_copy(sinks);
    axum::serve(listener, app).await?;
    // ANCHOR_END: serve
    Ok(())
}

// ANCHOR: ring
/// Reads the file into the ring as fast as the client takes it. Nothing is read for `HEAD`, and no more than the range otherwise.
async fn from_ring(
    State(directory): State<PathBuf>,
    Path(name): Path<String>,
    method: Method,
    headers: HeaderMap,
    ring: BodyRing,
) -> Result<Response, StatusCode> {
    let (mut file, representation) = open(directory, name).await?;
    let response = representation.respond(&method, &headers, |range| {
        // A seek reads nothing, so it may be done here.
        match file.seek(SeekFrom::Start(range.start)) {
            Ok(_) => RingBody::blocking(&ring, file.take(range.end - range.start)),
            Err(error) => RingBody::produce(&ring, |_| async { Err(error) }),
        }
    });
    Ok(response.into_response())
}
// ANCHOR_END: ring

// ANCHOR: region
/// Sends the file from where the kernel has it. Ranges are slices of the mapping.
#[cfg(zerosink_linux)]
#[expect(unsafe_code, reason = "nobody may write to a file that is mapped as a slice")]
async fn from_region(
    State(directory): State<PathBuf>,
    Path(name): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, StatusCode> {
    use zerosink::mapped::Region;

    let (file, representation) = open(directory, name).await?;
    let bytes = match representation.length() {
        0 => bytes::Bytes::new(),
        // SAFETY: whoever starts this service promises that files in its directory are only replaced by renaming others over them,
        // and neither written nor truncated.
        length => unsafe { Region::from_file(file, ..length) }.map_err(|error| status(&error))?,
    };
    Ok(representation.respond_bytes(&method, &headers, &bytes).into_response())
}
// ANCHOR_END: region

/// The portable build has no mapped files.
#[cfg(not(zerosink_linux))]
async fn from_region() -> StatusCode {
    StatusCode::NOT_IMPLEMENTED
}

/// A file of the directory, with its length, and a name for this version of it.
async fn open(directory: PathBuf, name: String) -> Result<(File, Representation), StatusCode> {
    // One plain name: no separators, however they were encoded, and no way up.
    let mut parts = FilePath::new(&name).components();
    let (Some(Component::Normal(_)), None) = (parts.next(), parts.next()) else { return Err(StatusCode::NOT_FOUND) };
    let opened = spawn_blocking(move || {
        let file = File::open(directory.join(name))?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let modified = metadata.modified()?.duration_since(UNIX_EPOCH).map_err(io::Error::other)?;
        let etag = HeaderValue::try_from(format!("\"{:x}-{:x}\"", metadata.len(), modified.as_nanos()));
        Ok((file, Representation::new(metadata.len()).etag(etag.map_err(io::Error::other)?)))
    });
    opened.await.map_err(|_panicked| StatusCode::INTERNAL_SERVER_ERROR)?.map_err(|error| status(&error))
}

fn status(error: &io::Error) -> StatusCode {
    match error.kind() {
        io::ErrorKind::NotFound => StatusCode::NOT_FOUND,
        io::ErrorKind::PermissionDenied => StatusCode::FORBIDDEN,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
