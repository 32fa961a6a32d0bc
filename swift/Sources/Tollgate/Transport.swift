import Foundation

#if canImport(FoundationNetworking)
    import FoundationNetworking
#endif

/// The head of an answer, and its body as it comes. Letting go of it closes the connection.
final class Exchange: @unchecked Sendable {
    let head: HTTPURLResponse
    private let task: URLSessionTask?
    private var chunks: AsyncThrowingStream<Data, any Error>.Iterator

    init(head: HTTPURLResponse, task: URLSessionTask?, chunks: AsyncThrowingStream<Data, any Error>) {
        self.head = head
        self.task = task
        self.chunks = chunks.makeAsyncIterator()
    }

    deinit { task?.cancel() }

    /// The next piece; nil at the end. One reader at a time.
    ///
    /// - Throws: `CancellationError` where the caller's task is cancelled, `TollgateError` where the connection broke.
    func next() async throws -> Data? {
        var iterator = chunks
        defer { chunks = iterator }
        do {
            let data = try await iterator.next()
            // A stream ends quietly in a cancelled task, as a whole answer does.
            try Task.checkCancellation()
            return data
        } catch let error as CancellationError {
            throw error
        } catch let error as TollgateError {
            throw error
        } catch {
            try Task.checkCancellation()
            throw TollgateError.lost(error)
        }
    }

    func rest() async throws -> Data {
        var all = Data()
        while let data = try await next() { all.append(data) }
        return all
    }
}

/// One `URLSession` for all clients. It hands out bytes by its delegate, which is there on every platform.
final class Transport: NSObject, URLSessionDataDelegate, @unchecked Sendable {
    static let shared = Transport()

    private struct Pending {
        var head: CheckedContinuation<HTTPURLResponse, any Error>?
        let body: AsyncThrowingStream<Data, any Error>.Continuation
    }

    private let lock = NSLock()
    private var pending: [Int: Pending] = [:]
    private var session: URLSession!

    override init() {
        super.init()
        let configuration = URLSessionConfiguration.default
        configuration.urlCache = nil
        configuration.httpCookieStorage = nil
        session = URLSession(configuration: configuration, delegate: self, delegateQueue: nil)
    }

    /// Sends a request; the head of its answer, once it is there.
    func open(_ request: URLRequest) async throws -> Exchange {
        let task = session.dataTask(with: request)
        let (chunks, body) = AsyncThrowingStream<Data, any Error>.makeStream()
        let head = try await withTaskCancellationHandler {
            try await withCheckedThrowingContinuation { head in
                lock.withLock { pending[task.taskIdentifier] = Pending(head: head, body: body) }
                task.resume()
            }
        } onCancel: {
            task.cancel()
        }
        return Exchange(head: head, task: task, chunks: chunks)
    }

    func urlSession(
        _: URLSession, dataTask: URLSessionDataTask, didReceive response: URLResponse,
        completionHandler: @escaping (URLSession.ResponseDisposition) -> Void
    ) {
        let head = lock.withLock {
            let head = pending[dataTask.taskIdentifier]?.head
            pending[dataTask.taskIdentifier]?.head = nil
            return head
        }
        if let response = response as? HTTPURLResponse {
            head?.resume(returning: response)
        } else {
            head?.resume(throwing: URLError(.badServerResponse))
        }
        completionHandler(.allow)
    }

    func urlSession(_: URLSession, dataTask: URLSessionDataTask, didReceive data: Data) {
        lock.withLock { pending[dataTask.taskIdentifier]?.body }?.yield(data)
    }

    func urlSession(_: URLSession, task: URLSessionTask, didCompleteWithError error: (any Error)?) {
        let ended = lock.withLock { pending.removeValue(forKey: task.taskIdentifier) }
        ended?.head?.resume(throwing: error ?? URLError(.badServerResponse))
        ended?.body.finish(throwing: error)
    }

    /// A redirect is an answer like any other: the token goes to nobody else.
    func urlSession(
        _: URLSession, task _: URLSessionTask, willPerformHTTPRedirection _: HTTPURLResponse, newRequest _: URLRequest,
        completionHandler: @escaping (URLRequest?) -> Void
    ) {
        completionHandler(nil)
    }
}
