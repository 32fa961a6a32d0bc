import Foundation
import Tollgate

let tollgate = TollgateClient(URL(string: "http://localhost:8080")!) { _ in "TOKEN" }
for try await piece in tollgate.stream([.user("Hello!")]) { print(piece.delta) }
