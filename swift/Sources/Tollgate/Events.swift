import Foundation

/// Cuts a body into events. Only whole events are decoded, so that no character is cut in two.
struct Events {
    private var rest = Data()
    private var ready: [String] = []

    /// Takes a piece of the body.
    mutating func append(_ data: Data) {
        rest.append(data)
        let blank = Data("\n\n".utf8)
        while let end = rest.range(of: blank) {
            let lines = String(decoding: rest[rest.startIndex..<end.lowerBound], as: UTF8.self).split(separator: "\n")
            let data = lines.filter { $0.hasPrefix("data:") }.map { $0.dropFirst($0.hasPrefix("data: ") ? 6 : 5) }
            if !data.isEmpty { ready.append(data.joined(separator: "\n")) }
            rest = Data(rest[end.upperBound...])
        }
    }

    /// The `data:` of the next event that is whole.
    mutating func next() -> String? {
        ready.isEmpty ? nil : ready.removeFirst()
    }
}
