//! The bodies that pass through: streamed, never collected. They carry what has to end with them.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full, combinators::MapErr};
use hyper::body::Incoming;

use super::pool::Conn;
use super::serve::Activity;
use super::target::Permit;

/// A request's body on its way to a target.
#[derive(Debug)]
pub(super) struct Upload {
    inner: Option<Incoming>,
    ended: bool,
    /// Set when the whole body has gone out; without it the connection cannot be used again.
    complete: Option<Arc<AtomicBool>>,
}

impl Upload {
    /// No body.
    pub(super) fn none() -> Self {
        Self { inner: None, ended: true, complete: None }
    }

    /// This body, and a flag that turns true when all of it has gone out.
    pub(super) fn stream(inner: Incoming) -> (Self, Arc<AtomicBool>) {
        let complete = Arc::new(AtomicBool::new(false));
        (Self { inner: Some(inner), ended: false, complete: Some(Arc::clone(&complete)) }, complete)
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(inner) = &mut self.inner else { return Poll::Ready(None) };
        let frame = std::task::ready!(Pin::new(inner).poll_frame(cx));
        self.ended |= frame.is_none();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // The sender of a body of known length stops at its last byte and never asks for the end.
        if (self.ended || self.is_end_stream())
            && let Some(complete) = &self.complete
        {
            complete.store(true, Ordering::Release);
        }
    }
}

/// A response's body on its way to the client.
#[derive(Debug)]
pub(super) struct Download {
    inner: Incoming,
    ended: bool,
    /// Taken on drop.
    conn: Option<Conn>,
    /// The flag of the request's [`Upload`], where there was a body.
    uploaded: Option<Arc<AtomicBool>>,
    /// Last, so that it is dropped last: the request is in flight until its connection is put away.
    permit: Permit,
}

impl Download {
    pub(super) fn new(inner: Incoming, conn: Conn, uploaded: Option<Arc<AtomicBool>>, permit: Permit) -> Self {
        Self { inner, ended: false, conn: Some(conn), uploaded, permit }
    }
}

impl Body for Download {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        // Asked first, so that the connection knows that more is wanted; then it may have more.
        let mut frame = Pin::new(&mut self.inner).poll_frame(cx);
        if let (Some(conn), Poll::Pending) = (&mut self.conn, &frame) {
            conn.poll(cx);
            frame = Pin::new(&mut self.inner).poll_frame(cx);
        }
        let frame = std::task::ready!(frame);
        self.ended |= frame.is_none();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        let Some(conn) = self.conn.take() else { return };
        if self.uploaded.as_ref().is_some_and(|uploaded| !uploaded.load(Ordering::Acquire)) {
            // It answered in full without reading all of the request: what is left of the upload has no reader, and
            // must
            // not keep the client's connection busy.
            conn.abort();
        } else if self.ended || self.inner.is_end_stream() {
            let target = self.permit.target();
            target.pool().put(target, conn);
        }
        // Else the client went away: dropping the sender and the body closes the connection.
    }
}

type Text = MapErr<Full<Bytes>, fn(Infallible) -> hyper::Error>;

/// What a client gets: a target's answer, or one of our own.
#[derive(Debug)]
pub(super) enum ReplyBody {
    /// A target's.
    Stream(Download),
    /// Our own, in one piece.
    Text(Text),
}

/// The body of a reply, with the note that the client's connection is idle again when it has ended.
#[derive(Debug)]
pub(super) struct Reply {
    body: ReplyBody,
    activity: Arc<Activity>,
}

impl Reply {
    pub(super) fn new(body: ReplyBody, activity: &Arc<Activity>) -> Self {
        Self { body, activity: Arc::clone(activity) }
    }
}

impl ReplyBody {
    /// A body of our own.
    pub(super) fn text(text: impl Into<Bytes>) -> Self {
        Self::Text(Full::new(text.into()).map_err(|never| match never {}))
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.body {
            ReplyBody::Stream(body) => Pin::new(body).poll_frame(cx),
            ReplyBody::Text(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.body {
            ReplyBody::Stream(body) => body.is_end_stream(),
            ReplyBody::Text(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            ReplyBody::Stream(body) => body.size_hint(),
            ReplyBody::Text(body) => body.size_hint(),
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.activity.idle();
    }
}
